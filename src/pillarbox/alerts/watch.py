"""Looks at the ages that no event tells of: one process of a service does it, the others stand by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pillarbox.observe import Observer
from pillarbox.rounds import Rounds

if TYPE_CHECKING:
    from pillarbox.alerts.alarm import Alarm
    from pillarbox.control import HealthCheck
    from pillarbox.lease import LeaseKeeper


class HealthWatch(Rounds):
    """Asks for the vitals now and then, and gives them to the alarms."""

    def __init__(
        self, alarms: Sequence[Alarm], *, health: HealthCheck, keeper: LeaseKeeper, observer: Observer
    ) -> None:
        """Watch while ``keeper`` holds its slot."""
        self._look_every = min(alarm.rules.watch_every for alarm in alarms)
        every = min(self._look_every, keeper.terms.ttl / 4)
        super().__init__("health watch", every=every, clock=keeper.clock, observer=observer)
        self._alarms = alarms
        self._health = health
        self._keeper = keeper
        self._look_at = float("-inf")

    async def round(self) -> None:
        """Keep the slot, or try to get it; look if it is ours and time to."""
        await self._keeper.keep()
        if self._keeper.tokens and self._clock.monotonic() >= self._look_at:
            self._look_at = self._clock.monotonic() + self._look_every.total_seconds()
            await self._look()

    async def leave(self) -> None:
        """Let another process watch at once."""
        await self._keeper.leave()

    async def _look(self) -> None:
        vitals = (await self._health.check()).vitals
        for alarm in self._alarms:
            alarm.notice_vitals(vitals)
