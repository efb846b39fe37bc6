"""Sends what waits for a target, one at a time, beside everything else that the process does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from pillarbox.channel.wakeup import Wakeup
from pillarbox.consumer.stray import failure_of
from pillarbox.observe import AlertFailed, Observer

if TYPE_CHECKING:
    from pillarbox.alerts.alarm import Alarm
    from pillarbox.alerts.alert import Alert
    from pillarbox.clock import Clock

WITHIN = timedelta(seconds=10)
PAUSES = (timedelta(seconds=1), timedelta(seconds=5), timedelta(seconds=30))
"""After which a target that failed is tried again; then the alert is given up."""
IDLE = timedelta(seconds=1)
LAST_WITHIN = timedelta(seconds=5)
"""For so long a process that ends sends what waits."""


class AlertSender:
    """Sends the alerts of one target; a target that hangs delays its own alerts, and nothing else."""

    def __init__(self, alarm: Alarm, *, clock: Clock, observer: Observer) -> None:
        """Send what waits in ``alarm``; failures are told to ``observer``."""
        self._alarm = alarm
        self._clock = clock
        self._observer = observer
        self._stop = Wakeup()
        self._stopping = False

    def stop(self) -> None:
        """End ``run`` soon; what waits is tried once more."""
        self._stopping = True
        self._stop.ring()
        self._alarm.wakeup.ring()

    async def run(self) -> None:
        """Send until ``stop``."""
        while not self._stopping:
            self._alarm.remind()
            if self._alarm.waiting:
                await self._send(self._alarm.waiting.popleft())
            else:
                await self._alarm.wakeup.wait(self._clock, IDLE)
        try:
            async with asyncio.timeout(LAST_WITHIN.total_seconds()):
                while self._alarm.waiting:
                    await self._try(self._alarm.waiting.popleft(), is_last=True)
        except TimeoutError:
            return

    async def _send(self, alert: Alert) -> None:
        for pause in PAUSES:
            if self._stopping:
                self._alarm.waiting.appendleft(alert)
                return
            if await self._try(alert, is_last=False):
                return
            await self._stop.wait(self._clock, pause)
        await self._try(alert, is_last=True)

    async def _try(self, alert: Alert, *, is_last: bool) -> bool:
        """Send once; return whether that succeeded."""
        try:
            async with asyncio.timeout(WITHIN.total_seconds()):
                await self._alarm.target(alert)
        except (Exception, asyncio.CancelledError) as caught:
            error = failure_of(caught, of="the target")
            self._observer.notice(
                AlertFailed(
                    rule=alert.rule,
                    subject=alert.subject,
                    target=self._alarm.target_name,
                    error_type=type(error).__qualname__,
                    is_given_up=is_last,
                )
            )
            return False
        return True
