"""Our log tailing relay on a backlog of transactions of one event each."""

from __future__ import annotations

import asyncio

from benchmarks.competitors.backlog import fill, fill_one_by_one
from benchmarks.competitors.counting import CountingBroker, settings_of
from benchmarks.measure import Stopwatch, task
from pillarbox import Pillarbox, Settings


async def main() -> None:
    """Let the relay make its slot, write the backlog behind it, and drain that."""
    todo = task()
    broker = CountingBroker(1)
    box = Pillarbox("bench", store=todo.url, broker=broker, settings=Settings(relay=settings_of("log")))
    await fill(box, 1)
    broker.when_all_came = box.stop
    async with box:
        await box.run(consumers=False)
        await fill_one_by_one(box, todo.count)
        broker.count, broker.expected = 0, todo.count
        stopwatch = Stopwatch(todo)
        stopwatch.start()
        await box.run(consumers=False)
        stopwatch.report(broker.count)


asyncio.run(main())
