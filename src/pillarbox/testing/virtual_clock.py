"""Time that passes only when a test lets it: no test waits for a retry, a lease or a poll."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from itertools import count

from pillarbox.clock import Clock

START = datetime(2026, 1, 1, tzinfo=UTC)
QUIET_TURNS = 100
"""How many turns of the event loop must pass without a new timer before time may jump."""


class VirtualClock(Clock):
    """A clock that stands still until it is advanced, or jumps by itself when everybody sleeps.

    A jump goes to the earliest timer only, so that sleepers wake in the order of their times. Whether everybody
    sleeps is seen from the event loop: work in threads or on sockets is not, so leave ``autojump`` off where a test
    has such work, and advance.

    Source: Trio, ``MockClock`` and its autojump.
    """

    def __init__(self, start: datetime = START, *, autojump: bool = False) -> None:
        """Show ``start``, an aware instant; with ``autojump`` time jumps whenever all tasks sleep on this clock."""
        self._start = start
        self._passed = timedelta(0)
        self._autojump = autojump
        self._sleepers: list[tuple[timedelta, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._timers_set = 0
        self._watching = False

    def now(self) -> datetime:
        """Return the instant that the clock shows."""
        return self._start + self._passed

    def monotonic(self) -> float:
        """Return the seconds that have passed since the clock's start."""
        return self._passed.total_seconds()

    async def sleep(self, duration: timedelta) -> None:
        """Wait until the clock has been advanced by ``duration``; a duration of zero gives others one turn."""
        if duration <= timedelta(0):
            await asyncio.sleep(0)  # noqa: TID251  # a turn, not time
            return
        waiting = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed + duration, next(self._numbers), waiting))
        self._timers_set += 1
        self._watch()
        await waiting

    def advance(self, duration: timedelta) -> None:
        """Let ``duration`` pass at once and wake whose time is over; they run at the next turns of the event loop.

        Raises:
            ValueError: time does not go back.
        """
        if duration < timedelta(0):
            raise ValueError(f"time does not go back: advance({duration!r})")
        self._passed += duration
        while self._sleepers and self._sleepers[0][0] <= self._passed:
            _, _, waiting = heapq.heappop(self._sleepers)
            if not waiting.done():
                waiting.set_result(None)

    def until_next(self) -> timedelta | None:
        """Return how long the first sleeper has still to wait; ``None`` when nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():  # cancelled
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] - self._passed if self._sleepers else None

    def jump(self) -> bool:
        """Advance to the first sleeper's time; return whether there is a sleeper."""
        wait = self.until_next()
        if wait is not None:
            self.advance(wait)
        return wait is not None

    def _watch(self) -> None:
        """Jump as soon as the event loop has made many turns in which nobody set a timer."""
        if self._autojump and not self._watching:
            self._watching = True
            self._look(self._timers_set, QUIET_TURNS)

    def _look(self, timers_set: int, turns_left: int) -> None:
        if timers_set != self._timers_set:
            timers_set, turns_left = self._timers_set, QUIET_TURNS
        if turns_left == 0:
            self._watching = False
            if self.jump() and self.until_next() is not None:
                self._watch()
            return
        asyncio.get_running_loop().call_later(0, self._look, timers_set, turns_left - 1)
