"""Waiting in tests: until something is true, or long enough to believe that something is blocked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = timedelta(seconds=10)
PAUSE_S = 0.003
BLOCKED_S = 0.08
"""How long a task must stand still to be taken for blocked; too short can only hide a fault, never invent one."""


async def wait_until(ask: Callable[[], Awaitable[T]], *, within: timedelta = PATIENCE) -> T:
    """Ask again and again until the answer is true, and return it.

    Raises:
        AssertionError: it never was; carries the last answer.
    """
    last: T | None = None
    try:
        async with asyncio.timeout(within.total_seconds()):
            while not (last := await ask()):  # noqa: ASYNC110  # a database sends no signal
                await asyncio.sleep(PAUSE_S)  # noqa: TID251  # polls a database, whose clock is not ours to move
    except TimeoutError:
        raise AssertionError(f"not true within {within}; the last answer was {last!r}") from None
    return last


async def assert_blocked(task: asyncio.Task[Any]) -> None:
    """Make sure that ``task`` has started and does not get on by itself."""
    done, _ = await asyncio.wait({task}, timeout=BLOCKED_S)
    assert not done, f"it should have waited, but ended: {task!r}"
