"""Our relay of one kind, to a broker that confirms everything and counts."""

from __future__ import annotations

import asyncio

from benchmarks.competitors.backlog import fill
from benchmarks.competitors.counting import CountingBroker, settings_of
from benchmarks.measure import Stopwatch, task
from pillarbox import Pillarbox, Settings


async def main() -> None:
    """Fill the outbox, drain it, and see that nothing is left."""
    todo = task()
    broker = CountingBroker(todo.count)
    kind = todo.options.get("kind", "polling")
    box = Pillarbox("bench", store=todo.url, broker=broker, settings=Settings(relay=settings_of(kind)))
    await fill(box, todo.count)
    broker.when_all_came = box.stop
    async with box:
        stopwatch = Stopwatch(todo)
        stopwatch.start()
        await box.run(consumers=False)
        stopwatch.report(broker.count)
        if kind == "polling":
            assert (await box.store.run(box.store.outbox.state())).pending == 0


asyncio.run(main())
