"""A hint that there may be work, so that pollers need not poll fast while there is none."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pillarbox.clock import Clock


class Wakeup:
    """A hint inside one process. It may be lost or needless: whoever waits for it polls as well."""

    def __init__(self) -> None:
        """Start without a hint."""
        self._hint = asyncio.Event()

    def ring(self) -> None:
        """Say that there may be work."""
        self._hint.set()

    @property
    def is_rung(self) -> bool:
        """Whether there is a hint that nobody has heard yet."""
        return self._hint.is_set()

    async def wait(self, clock: Clock, within: timedelta) -> bool:
        """Wait for a hint, at most ``within``; return whether there was one."""
        async with asyncio.TaskGroup() as group:
            pause = group.create_task(clock.sleep(within))
            hint = group.create_task(self._hint.wait())
            await asyncio.wait((pause, hint), return_when=asyncio.FIRST_COMPLETED)
            hinted = hint.done()
            pause.cancel()
            hint.cancel()
        self._hint.clear()
        return hinted


class Pace:
    """How long an idle poller waits: the shortest time after it found work, some times over, then ever longer."""

    def __init__(self, *, shortest: timedelta, longest: timedelta, steady: int = 1) -> None:
        """Wait between ``shortest`` and ``longest``; the first ``steady`` waits are of the shortest."""
        self._shortest = shortest
        self._longest = longest
        self._steady = steady
        self.found_work()

    def found_work(self) -> None:
        """Poll fast again."""
        self._next = self._shortest
        self._short_ones = self._steady

    def pause(self) -> timedelta:
        """Return how long to wait now, and wait longer the next time."""
        current = self._next
        self._short_ones -= 1
        if self._short_ones <= 0:
            self._next = min(current * 2, self._longest)
        return current
