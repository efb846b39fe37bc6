"""Our polling relay, with its default settings, to Kafka."""

from __future__ import annotations

import asyncio

from benchmarks.competitors.backlog import fill
from benchmarks.logs import count_records, make_topic, private_kafka
from benchmarks.measure import Stopwatch, task
from pillarbox import Pillarbox
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
    with private_kafka() as server:
        make_topic(server)
        box = Pillarbox("bench", store=todo.url, broker=server.url)
        await fill(box, todo.count)
        counting = Counting(box, todo.count)
        box.observe(counting)
        async with box:
            stopwatch = Stopwatch(todo)
            stopwatch.start()
            await box.run(consumers=False)
            stopwatch.report(counting.count)
        assert count_records(server) == todo.count


asyncio.run(main())
