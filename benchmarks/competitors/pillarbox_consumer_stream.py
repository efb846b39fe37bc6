"""Our consumer without an inbox and a handler that only counts, from the streams of a broker."""

from __future__ import annotations

import asyncio

from benchmarks.competitors.orders import OrderPlaced, messages
from benchmarks.measure import Stopwatch, task
from benchmarks.streams import private
from pillarbox import Pillarbox
from pillarbox.channel import Confirmed, Subscription

AT_ONCE = 500


async def main() -> None:
    """Fill the channel and handle everything."""
    todo = task()
    with private(todo.options["broker"]) as server:
        box = Pillarbox("bench", store="memory://", broker=server.url)
        handled, done = 0, asyncio.Event()

        @box.on(OrderPlaced, name="count", idempotency="natural")
        async def count(order: OrderPlaced) -> None:
            nonlocal handled
            handled += 1
            if handled >= todo.count:
                done.set()

        await box.broker.declare([Subscription(consumer="bench/count", channels=("topic:order",))])
        sender, waiting = box.broker.sender(), messages(todo.count)
        for start in range(0, todo.count, AT_ONCE):
            results = await sender.send(waiting[start : start + AT_ONCE])
            assert set(results) == {Confirmed()}, set(results) - {Confirmed()}
        stopwatch = Stopwatch(todo)
        stopwatch.start()
        async with box.running(relay=False):
            await done.wait()
            stopwatch.report(handled)


asyncio.run(main())
