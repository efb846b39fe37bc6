"""Waiting for something to become true, with a deadline; the only place in the tests that sleeps.

``wait_until`` serves asynchronous tests, ``wait_blocking`` code without an event loop, such as the server harness.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

DEFAULT_WITHIN = timedelta(seconds=10)
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.03
_SHARE_OF_WAIT = 0.05
"""What is looked at is busy itself: the longer it takes, the less often it is asked; the end is late by a twentieth."""


class Deadline:
    """A point in the future of the monotonic clock."""

    def __init__(self, within: timedelta) -> None:
        self._at = time.monotonic() + within.total_seconds()

    @property
    def passed(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() >= self._at

    @property
    def left(self) -> timedelta:
        """The time that is left, zero when it is used up."""
        return timedelta(seconds=max(0.0, self._at - time.monotonic()))


class _Pauses:
    """How long to pause before the next look."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def next_s(self) -> float:
        wanted = _SHARE_OF_WAIT * (time.monotonic() - self._since)
        return min(max(wanted, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)


@overload
async def wait_until(
    predicate: Callable[[], Awaitable[T]], within: timedelta = ..., *, what: str | None = ..., works: bool = ...
) -> T: ...
@overload
async def wait_until(
    predicate: Callable[[], T], within: timedelta = ..., *, what: str | None = ..., works: bool = ...
) -> T: ...
async def wait_until(
    predicate: Callable[[], T | Awaitable[T]],
    within: timedelta = DEFAULT_WITHIN,
    *,
    what: str | None = None,
    works: bool = False,
) -> T:
    """Wait until ``predicate`` answers something true, and return that answer.

    The predicate may be plain or asynchronous. What it raises is passed on. One that hangs is cancelled in time. One
    that ``works`` does a piece of what is waited for at each call, and is not called more and more seldom.

    Raises:
        AssertionError: it never became true; names the condition, the time allowed and the last answer.
    """
    answer: T | None = None
    pauses = _Pauses()
    deadline = asyncio.timeout(within.total_seconds())
    try:
        async with deadline:
            while True:
                asked = predicate()
                answer = await asked if inspect.isawaitable(asked) else asked
                if answer:
                    return answer
                await asyncio.sleep(_SHORTEST_PAUSE_S if works else pauses.next_s())
    except TimeoutError:
        if deadline.expired():
            raise AssertionError(_complaint(predicate, within, what, answer)) from None
        raise


def wait_blocking(predicate: Callable[[], T], within: timedelta = DEFAULT_WITHIN, *, what: str | None = None) -> T:
    """Wait as ``wait_until`` does, blocking the calling thread.

    Raises:
        AssertionError: it never became true.
    """
    deadline, pauses = Deadline(within), _Pauses()
    while True:
        answer = predicate()
        if answer:
            return answer
        if deadline.passed:
            raise AssertionError(_complaint(predicate, within, what, answer))
        time.sleep(pauses.next_s())


def let_pass(duration: timedelta) -> None:
    """Block for ``duration``: between two tries of something that cannot be asked whether it would succeed now."""
    time.sleep(duration.total_seconds())


def _complaint(predicate: Callable[[], object], within: timedelta, what: str | None, answer: object) -> str:
    return f"not true within {within.total_seconds():g} s: {what or _source(predicate)} (last answer: {answer!r})"


def _source(predicate: Callable[[], object]) -> str:
    """The predicate's own text when it can be read, else its name."""
    try:
        return " ".join(inspect.getsource(predicate).split())
    except (OSError, TypeError):
        return getattr(predicate, "__qualname__", repr(predicate))
