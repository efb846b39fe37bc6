"""The heartbeat of a process."""

from __future__ import annotations

from pillarbox.channel.wakeup import Wakeup
from pillarbox.clock import Clock
from pillarbox.lease import LeaseKeeper


class Membership:
    """Tells the other processes that this one lives, so that its messages under way are not taken for crashed."""

    def __init__(self, keeper: LeaseKeeper, *, clock: Clock) -> None:
        """Renew the membership of ``keeper``."""
        self._keeper = keeper
        self._clock = clock
        self._stop = Wakeup()
        self._stopping = False

    def stop(self) -> None:
        """End ``run``."""
        self._stopping = True
        self._stop.ring()

    async def join(self) -> None:
        """Become a member before anything is handled."""
        await self._keeper.keep()

    async def run(self) -> None:
        """Renew until ``stop``, then sign off."""
        while not self._stopping:
            await self._keeper.keep()
            await self._stop.wait(self._clock, self._keeper.terms.ttl / 6)
        await self._keeper.leave()
