"""Repeats something beside a block of work, such as the renewal of what the block has leased."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from pillarbox.errors import ConflictError, TransientError

if TYPE_CHECKING:
    from datetime import timedelta

    from pillarbox.clock import Clock


@asynccontextmanager
async def repeated(action: Callable[[], Awaitable[object]], *, every: timedelta, clock: Clock) -> AsyncGenerator[None]:
    """Await ``action`` again and again while the block runs.

    A renewal that the database refuses for the moment is tried again the next time: what guards the work is its token,
    not the renewal. The block's own exception leaves unwrapped.
    """

    async def repeat() -> None:
        while True:
            await clock.sleep(every)
            try:
                await action()
            except (TransientError, ConflictError):
                continue

    try:
        async with asyncio.TaskGroup() as group:
            repeating = group.create_task(repeat())
            try:
                yield
            finally:
                repeating.cancel()
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group: those beside it happened because of it, or will happen again."""
    first: BaseException = errors.exceptions[0]
    while isinstance(first, BaseExceptionGroup):
        first = cast("BaseExceptionGroup[BaseException]", first).exceptions[0]
    return first
