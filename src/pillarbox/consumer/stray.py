"""Failures of what users wrote that must not go on as they are: nobody would be told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def failure_of(caught: Exception | asyncio.CancelledError, *, of: str = "the handler") -> Exception:
    """Return ``caught``, or the failure that it stands for when it is a stray cancellation; see ``stray``."""
    return stray(caught, of=of) if isinstance(caught, asyncio.CancelledError) else caught


def stray(error: asyncio.CancelledError, *, of: str = "the handler") -> Exception:
    """Return the failure that a cancellation stands for which nobody asked this task for.

    Something that was called has awaited what was cancelled. Let through, it would end the loop that called it, and
    nobody would be told. A thread is cancelled by nobody: there every cancellation is a stray one.

    Raises:
        CancelledError: this task is being cancelled, which is no attempt of the handler.
    """
    if _is_asked_for():
        raise error
    failure = RuntimeError(f"{of} was cancelled by something that it called; nobody cancelled {of}")
    failure.__cause__ = error
    return failure


async def in_thread_of_its_own(function: Callable[..., T], *given: object, **others: object) -> T:
    """Call a plain function of the user's in a thread; unlike ``in_thread`` a cancellation does not wait for it.

    Raises:
        RuntimeError: it raised what a coroutine cannot: asyncio would never tell that the thread has ended.
    """
    return await asyncio.to_thread(partial(_called, function, *given, **others))


def _called(function: Callable[..., T], *given: object, **others: object) -> T:
    try:
        return function(*given, **others)
    except asyncio.CancelledError as error:
        raise stray(error) from error
    except StopIteration as error:  # as PEP 479 has it for coroutines
        raise RuntimeError("the handler raised StopIteration") from error


def _is_asked_for() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # in a thread
        return False
    return task is None or task.cancelling() > 0
