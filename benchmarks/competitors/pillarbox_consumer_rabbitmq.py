"""Our consumer with an inbox and a handler that does nothing, with default settings, on sixteen quorum queues."""

from __future__ import annotations

import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.competitors.orders import OrderPlaced, messages
from benchmarks.measure import Stopwatch, task
from benchmarks.queues import AT_ONCE, private_rabbitmq
from pillarbox import Pillarbox
from pillarbox.channel import Confirmed, Subscription

RECORDED = text("SELECT count(*) FROM pillarbox_inbox WHERE consumer = 'bench/count-orders'")


async def main() -> None:
    """Fill the queues, handle everything, and see that the inbox has each message."""
    todo = task()
    with private_rabbitmq() as server:
        box = Pillarbox("bench", store=todo.url, broker=server.url)
        count, done = 0, asyncio.Event()

        @box.on(OrderPlaced, name="count-orders")
        async def count_orders(order: OrderPlaced, tx: AsyncConnection) -> None:
            nonlocal count
            count += 1
            if count >= todo.count:
                done.set()

        await box.migrate()
        await box.broker.declare([Subscription(consumer="bench/count-orders", channels=("topic:order",))])
        sender, backlog = box.broker.sender(), messages(todo.count)
        for begin in range(0, len(backlog), AT_ONCE):
            assert set(await sender.send(backlog[begin : begin + AT_ONCE])) == {Confirmed()}
        stopwatch = Stopwatch(todo)
        stopwatch.start()
        async with box.running(relay=False):
            await done.wait()
            stopwatch.report(count)
        async with box.store.engine.connect() as connection:
            assert (await connection.execute(RECORDED)).scalar() == todo.count
        await box.store.engine.dispose()


asyncio.run(main())
