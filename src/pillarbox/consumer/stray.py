"""Cancellations that nobody asked this task for: a handler awaited something that was cancelled."""

from __future__ import annotations

import asyncio


def stray(error: asyncio.CancelledError) -> Exception:
    """Return the failure that the handler's cancellation stands for.

    Let through, it would end the loop that called the handler, and nobody would be told.

    Raises:
        CancelledError: this task is being cancelled, which is no attempt of the handler.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    failure = RuntimeError("the handler was cancelled by something that it awaited; nobody cancelled the handler")
    failure.__cause__ = error
    return failure
