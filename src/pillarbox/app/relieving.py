"""Looks after others that stand still in the database and keep what is theirs locked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from pillarbox.channel.wakeup import Wakeup
from pillarbox.clock import Clock


class Relief:
    """Relieves the database now and then, in every process that works."""

    def __init__(self, relieve: Callable[[], Awaitable[object]], *, every: timedelta, clock: Clock) -> None:
        """Call ``relieve`` now and ``every`` so often."""
        self._relieve = relieve
        self._every = every
        self._clock = clock
        self._stop = Wakeup()
        self._stopping = False

    def stop(self) -> None:
        """End ``run``."""
        self._stopping = True
        self._stop.ring()

    async def run(self) -> None:
        """Look until ``stop``."""
        while not self._stopping:
            await self._relieve()
            await self._stop.wait(self._clock, self._every)
