"""Our consumer with an inbox and an asynchronous handler, of single messages or of batches, in one lane or a few.

Each lane has a connection. One more is left for what a consumer notes beside its runs where there are several lanes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from benchmarks.competitors.orders import (
    CREATE_ACCOUNTS,
    FILL_ACCOUNTS,
    NumberedOrder,
    OrderPlaced,
    account_of,
    messages,
    numbered,
)
from benchmarks.measure import Stopwatch, task
from benchmarks.order import KEYS
from pillarbox import BySequence, Context, Pillarbox
from pillarbox.channel import Broker, Delivery, MessageReceiver, Outcome, Subscription
from pillarbox.message import Message
from pillarbox.stores.postgresql.store import postgresql_store
from tests.brokers import StandInBroker

UPDATE = text("UPDATE accounts SET orders = orders + 1 WHERE id = :id")


class FeedBroker(StandInBroker):
    """Delivers a list of messages once, and says when all are accepted."""

    def __init__(self, feed: list[Message]) -> None:
        super().__init__()
        self.feed = [Delivery(message=message, receipt=number) for number, message in enumerate(feed)]
        self.accepted = 0
        self.all_accepted = asyncio.Event()
        self._expected = len(feed)

    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        return _FeedReceiver(self)

    def accept(self, count: int) -> None:
        """Count what was accepted."""
        self.accepted += count
        if self.accepted >= self._expected:
            self.all_accepted.set()


class _FeedReceiver(MessageReceiver):
    def __init__(self, broker: FeedBroker) -> None:
        self._broker = broker
        self._next = 0

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        feed = self._broker.feed[self._next : self._next + limit]
        self._next += len(feed)
        if not feed and limit:
            await asyncio.sleep(min(within.total_seconds(), 0.01))
        return feed

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        if outcome is Outcome.RETURNED:
            raise RuntimeError("a message was returned: something went wrong")
        self._broker.accept(len(deliveries))

    async def close(self) -> None:
        pass


UPDATE_ALL = text(
    "UPDATE accounts SET orders = orders + more FROM"
    " (SELECT account, count(*) AS more FROM unnest(CAST(:ids AS INTEGER[])) AS account GROUP BY account) AS counted"
    " WHERE id = account"
)


async def count_batches(orders: list[OrderPlaced], tx: AsyncConnection) -> None:
    """Handle orders by one statement."""
    await tx.execute(UPDATE_ALL, {"ids": [account_of(order.order_id) for order in orders]})


async def count_orders(order: OrderPlaced, tx: AsyncConnection) -> None:
    """Handle an order."""
    await tx.execute(UPDATE, {"id": account_of(order.order_id)})


def failing_once(feed: list[Message], when: str) -> Callable[[OrderPlaced, AsyncConnection, Context], Awaitable[None]]:
    """Return a handler that fails at the first attempt of every tenth message, ``before`` its statement or after it."""
    once = {one.id for number, one in enumerate(feed) if (number + number // KEYS) % 10 == 0}

    async def count_in_the_end(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> None:
        fails = ctx.attempt == 1 and ctx.message_id in once
        if fails and when == "before":
            raise ConnectionError("not now")
        await tx.execute(UPDATE, {"id": account_of(order.order_id)})
        if fails:
            raise ConnectionError("not now")

    return count_in_the_end


def _box(url: str, broker: Broker, lanes: int) -> Pillarbox:
    """Make a box; on PostgreSQL with a pool of a connection for each lane."""
    if not url.startswith("postgresql"):
        return Pillarbox("bench", store=url, broker=broker)
    engine = create_async_engine(
        postgresql_store(make_url(url)).engine.url, pool_size=lanes if lanes == 1 else lanes + 1, max_overflow=0
    )
    return Pillarbox("bench", store=engine, broker=broker)


async def main() -> None:
    """Handle all messages, and see that each counted once."""
    todo = task()
    lanes = int(todo.options.get("lanes", 1))
    by_sequence = bool(todo.options.get("by_sequence"))
    feed = messages(todo.count)
    broker = FeedBroker(numbered(feed) if by_sequence else feed)
    box = _box(todo.url, broker, lanes)
    await box.migrate()
    async with box.transaction() as tx:
        await tx.execute(text(CREATE_ACCOUNTS))
        await tx.execute(text(FILL_ACCOUNTS[box.store.engine.dialect.name]))

    if batch := int(todo.options.get("batch", 0)):
        box.on(OrderPlaced, name="count-orders", concurrency=lanes, batch=batch)(count_batches)
    elif failing := str(todo.options.get("failing", "")):
        box.on(OrderPlaced, name="count-orders", concurrency=lanes)(failing_once(feed, failing))
    elif by_sequence:
        box.on(NumberedOrder, name="count-orders", concurrency=lanes, ordering=BySequence())(count_orders)
    else:
        box.on(OrderPlaced, name="count-orders", concurrency=lanes)(count_orders)
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    async with box.running(relay=False):
        await broker.all_accepted.wait()
        stopwatch.report(broker.accepted)
        async with box.transaction() as tx:
            assert (await tx.execute(text("SELECT sum(orders) FROM accounts"))).scalar() == todo.count
            recorded = text("SELECT count(*) FROM pillarbox_inbox WHERE consumer = 'bench/count-orders'")
            assert (await tx.execute(recorded)).scalar() == todo.count
    await box.store.engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
