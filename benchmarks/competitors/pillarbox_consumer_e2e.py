"""Our consumer with an inbox and an ordinary handler, from a Redis stream into PostgreSQL, as it comes."""

from __future__ import annotations

import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.competitors.orders import CREATE_ACCOUNTS, FILL_ACCOUNTS, OrderPlaced, account_of, messages
from benchmarks.measure import Stopwatch, task
from benchmarks.streams import private
from pillarbox import Pillarbox
from pillarbox.channel import Confirmed, Subscription
from pillarbox.observe import Event, MessageHandled, Observer

AT_ONCE = 500
UPDATE = text("UPDATE accounts SET orders = orders + 1 WHERE id = :id")


class Counter(Observer):
    """Counts what is handled and committed."""

    def __init__(self, expected: int) -> None:
        self.handled = 0
        self.done = asyncio.Event()
        self._expected = expected

    def notice(self, event: Event, /) -> None:
        self.handled += isinstance(event, MessageHandled)
        if self.handled >= self._expected:
            self.done.set()


async def main() -> None:
    """Fill the stream and handle everything; see that each message counted once."""
    todo = task()
    with private("redis") as server:
        box, counter = Pillarbox("bench", store=todo.url, broker=server.url), Counter(todo.count)
        box.observe(counter)
        await box.migrate()
        async with box.transaction() as tx:
            await tx.execute(text(CREATE_ACCOUNTS))
            await tx.execute(text(FILL_ACCOUNTS["postgresql"]))

        @box.on(OrderPlaced, name="count-orders")
        async def count_orders(order: OrderPlaced, tx: AsyncConnection) -> None:
            await tx.execute(UPDATE, {"id": account_of(order.order_id)})

        await box.broker.declare([Subscription(consumer="bench/count-orders", channels=("topic:order",))])
        sender, waiting = box.broker.sender(), messages(todo.count)
        for start in range(0, todo.count, AT_ONCE):
            results = await sender.send(waiting[start : start + AT_ONCE])
            assert set(results) == {Confirmed()}, set(results) - {Confirmed()}
        stopwatch = Stopwatch(todo)
        stopwatch.start()
        async with box.running(relay=False):
            await counter.done.wait()
            stopwatch.report(counter.handled)
            async with box.transaction() as tx:
                assert (await tx.execute(text("SELECT sum(orders) FROM accounts"))).scalar() == todo.count


asyncio.run(main())
