"""Our polling relay, with its default settings, to a broker."""

from __future__ import annotations

import asyncio

from benchmarks.competitors.backlog import fill
from benchmarks.competitors.stored import count_stored
from benchmarks.measure import Stopwatch, task
from benchmarks.streams import private
from pillarbox import Pillarbox
from pillarbox.channel import Subscription
from pillarbox.observe import Event, MessagesPublished, Observer


class Counting(Observer):
    """Ends the box when all is published."""

    def __init__(self, box: Pillarbox, expected: int) -> None:
        self.box = box
        self.expected = expected
        self.count = 0

    def notice(self, event: Event, /) -> None:
        if isinstance(event, MessagesPublished):
            self.count += event.count
            if self.count >= self.expected:
                self.box.stop()


async def main() -> None:
    """Fill the outbox, drain it, and see that everything is there."""
    todo = task()
    with private(todo.options["broker"]) as server:
        box = Pillarbox("bench", store=todo.url, broker=server.url)
        await fill(box, todo.count)
        counting = Counting(box, todo.count)
        box.observe(counting)
        await box.broker.declare([Subscription(consumer="bench/all", channels=("topic:order",))])
        async with box:
            stopwatch = Stopwatch(todo)
            stopwatch.start()
            await box.run(consumers=False)
            stopwatch.report(counting.count)
        assert await count_stored(server, "topic:order") == todo.count


asyncio.run(main())
