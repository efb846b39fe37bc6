"""Looks at the ages that no event tells of: one process of a service does it, the others stand by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pillarbox.channel.wakeup import Wakeup
from pillarbox.errors import ConflictError, TransientError

if TYPE_CHECKING:
    from pillarbox.alerts.alarm import Alarm
    from pillarbox.clock import Clock
    from pillarbox.control import HealthCheck
    from pillarbox.lease import LeaseKeeper


class HealthWatch:
    """Asks for the vitals now and then, and gives them to the alarms."""

    def __init__(self, alarms: Sequence[Alarm], *, health: HealthCheck, keeper: LeaseKeeper, clock: Clock) -> None:
        """Watch while ``keeper`` holds its slot."""
        self._alarms = alarms
        self._health = health
        self._keeper = keeper
        self._clock = clock
        self._every = min(alarm.rules.watch_every for alarm in alarms)
        self._wakeup = Wakeup()
        self._stopping = False

    def stop(self) -> None:
        """End ``run``."""
        self._stopping = True
        self._wakeup.ring()

    async def run(self) -> None:
        """Watch until ``stop``; while the database is away there is nothing to be seen."""
        step = min(self._every, self._keeper.terms.ttl / 4)
        look_at = float("-inf")
        while not self._stopping:
            try:
                await self._keeper.keep()
                if self._keeper.tokens and self._clock.monotonic() >= look_at:
                    look_at = self._clock.monotonic() + self._every.total_seconds()
                    await self._look()
            except (TransientError, ConflictError):
                pass  # every other loop tells of it
            await self._wakeup.wait(self._clock, step)
        await self._keeper.leave()

    async def _look(self) -> None:
        vitals = (await self._health.check()).vitals
        for alarm in self._alarms:
            alarm.notice_vitals(vitals)
