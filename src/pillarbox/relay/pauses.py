"""Which destinations take nothing now, and until when: pure book-keeping.

Source: Brooker, *Exponential Backoff and Jitter* (AWS Architecture Blog): equal jitter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

OUTBOX, RELEASED = "outbox", "released"
"""The places that a relay reads."""
TRIED_AT_EVERY = 3
"""How many reads there are to one that may find again what had failed."""


@dataclass(slots=True)
class _Pause:
    until: float
    next_s: float


class Pauses:
    """Pauses by name, the longest of each twice that of the one before it until there is a success.

    A pause is drawn from the upper half of its longest, so that many relays do not probe at the same moment. Times are
    seconds of one monotonic clock, which the caller reads.
    """

    def __init__(self, *, first: timedelta, longest: timedelta, dice: Callable[[], float]) -> None:
        """Pause for up to ``first``, then for up to ``longest``; ``dice`` draws evenly from [0, 1)."""
        self._dice = dice
        self._first_s = first.total_seconds()
        self._longest_s = longest.total_seconds()
        self._pauses: dict[str, _Pause] = {}
        self._reads = Counter[str]()

    def pause(self, name: str, *, now: float) -> timedelta:
        """Pause ``name``; return for how long."""
        up_to_s = self._pauses[name].next_s if name in self._pauses else self._first_s
        length_s = up_to_s * (1 + self._dice()) / 2
        self._pauses[name] = _Pause(until=now + length_s, next_s=min(up_to_s * 2, self._longest_s))
        return timedelta(seconds=length_s)

    def succeeded(self, name: str) -> None:
        """Forget that ``name`` ever failed."""
        self._pauses.pop(name, None)

    def active(self, *, now: float) -> list[str]:
        """Return the names that are paused now."""
        return sorted(name for name, pause in self._pauses.items() if pause.until > now)

    def failed(self) -> list[str]:
        """Return the names that have failed since their last success, paused or not."""
        return sorted(self._pauses)

    def left_out(self, *, of: str, now: float) -> list[str]:
        """Return the names to leave out of the next read: those that are paused, and mostly all that have failed.

        What is read from different places is counted by itself, ``of`` each: read in turns, one of them might never
        have the read that tries again.

        What is tried again may fill a read by itself, and fail again; so there are reads in between that find others:
        two, since one that is made while the failure comes to light is not used.
        """
        self._reads[of] += 1
        return self.failed() if self._reads[of] % TRIED_AT_EVERY else self.active(now=now)

    def is_paused(self, name: str, *, now: float) -> bool:
        """Tell whether ``name`` is paused now."""
        return name in self._pauses and self._pauses[name].until > now

    def has_failed(self, name: str) -> bool:
        """Tell whether ``name`` has failed since its last success; the next try is a probe."""
        return name in self._pauses
