"""Our polling relay, with its default settings, to Redis Streams."""

from __future__ import annotations

import asyncio

from benchmarks.competitors.backlog import fill
from benchmarks.measure import Stopwatch, task
from benchmarks.streams import private_redis
from pillarbox import Pillarbox
from pillarbox.brokers.redis.connection import RedisConnection
from pillarbox.brokers.redis.layout import streams_of
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
    with private_redis() as server:
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
        redis = RedisConnection(server.url)
        lengths = await redis.execute_all([("XLEN", stream) for stream in streams_of("topic:order")])
        assert sum(lengths) == todo.count
        await redis.close()


asyncio.run(main())
