"""A loop that ends by its own doing is told of and started again; who cancels them all ends them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pillarbox.app.running import Running
from pillarbox.observe import Event, Observer, WorkerFaltered
from pillarbox.testing import VirtualClock


class Told(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notice(self, event: Event, /) -> None:
        self.events.append(event)


class Loop:
    """A loop whose first two runs cancel the task that they are in; the third works until it is stopped."""

    def __init__(self) -> None:
        self.runs = 0
        self.is_at_work = asyncio.Event()
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        self.runs += 1
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        if self.runs <= 2:
            task.cancel()
        else:
            self.is_at_work.set()
        async with asyncio.timeout(60):
            await self._stopped.wait()


def of(loop: Loop, told: Told) -> Running:
    workers: Any = [loop]
    return Running(workers, clock=VirtualClock(autojump=True), observer=told)


async def test_a_loop_that_something_in_it_cancelled_is_told_of_and_started_again() -> None:
    loop, told = Loop(), Told()
    running = of(loop, told)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        work = group.create_task(running.run())
        await loop.is_at_work.wait()
        running.stop()
    await work

    assert loop.runs == 3
    faltered = [event for event in told.events if isinstance(event, WorkerFaltered)]
    assert [event.worker for event in faltered] == ["Loop", "Loop"]
    assert all("cancelled" in event.error for event in faltered)


async def test_whoever_cancels_them_all_ends_them_and_nobody_is_told() -> None:
    loop, told = Loop(), Told()
    loop.runs = 2
    work = asyncio.create_task(of(loop, told).run())
    await loop.is_at_work.wait()

    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work

    assert (loop.runs, told.events) == (3, [])
