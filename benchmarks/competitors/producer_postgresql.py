"""Producers on bare asyncpg: one row of business data a transaction, and with it nothing, our event, or a NOTIFY.

The options: ``writers`` at once, each on a connection of its own, and ``publish``: ``nothing``, ``pillarbox``,
``insert`` for a row of a plain outbox, or ``notify`` for that and a NOTIFY, as somebody writes it who has no library.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from benchmarks.competitors.orders import OrderPlaced, order_of
from benchmarks.measure import Stopwatch, task
from benchmarks.order import body_of, key_of
from benchmarks.wal import CREATE_PLAIN
from pillarbox import Pillarbox

CREATE_BUSINESS = (
    "CREATE TABLE orders (number bigint PRIMARY KEY, customer text NOT NULL, total_cents bigint NOT NULL,"
    " note text NOT NULL)"
)
BUSINESS = "INSERT INTO orders (number, customer, total_cents, note) VALUES ($1, 'Zoë Ångström', 4250, 'the neighbour')"
PLAIN = "INSERT INTO outbox (topic, key, headers, payload) VALUES ('order', $1, '{\"source\": \"shop\"}', $2)"
NOTIFY = "SELECT pg_notify('outbox', 'order')"

Publish = Callable[[asyncpg.Connection, int], Awaitable[None]]


async def nothing(connection: asyncpg.Connection, number: int) -> None:
    """Publish nothing."""


async def insert(connection: asyncpg.Connection, number: int) -> None:
    """Insert a row into a plain outbox."""
    await connection.execute(PLAIN, key_of(number), body_of(number).decode())


async def notify(connection: asyncpg.Connection, number: int) -> None:
    """Insert a row into a plain outbox and wake its relay."""
    await insert(connection, number)
    await connection.execute(NOTIFY)


def publishing_through(box: Pillarbox, count: int) -> Publish:
    """Return a way to publish through ``box``, with the events made."""
    box.register(OrderPlaced)
    orders = [order_of(number) for number in range(count)]

    async def publish(connection: asyncpg.Connection, number: int) -> None:
        await box.publish(orders[number], tx=connection, key=key_of(number))

    return publish


async def main() -> None:
    """Write."""
    todo = task()
    writers, wanted = todo.options["writers"], todo.options["publish"]
    box = Pillarbox("bench", store=todo.url)
    await box.migrate()
    connections = [await asyncpg.connect(todo.url) for _ in range(writers)]
    await connections[0].execute(f"{CREATE_BUSINESS}; {CREATE_PLAIN}")
    ways = {"nothing": nothing, "insert": insert, "notify": notify, "pillarbox": publishing_through(box, todo.count)}
    publish = ways[wanted]

    async def write(connection: asyncpg.Connection, numbers: range) -> None:
        for number in numbers:
            async with connection.transaction():
                await connection.execute(BUSINESS, number)
                await publish(connection, number)

    stopwatch = Stopwatch(todo)
    stopwatch.start()
    async with asyncio.TaskGroup() as group:
        for first, connection in enumerate(connections):
            group.create_task(write(connection, range(first, todo.count, writers)))
    count = await connections[0].fetchval("SELECT count(*) FROM orders")
    stopwatch.report(count)
    written = "outbox" if wanted in {"insert", "notify"} else "pillarbox_outbox"
    assert await connections[0].fetchval(f"SELECT count(*) FROM {written}") == (0 if wanted == "nothing" else count)
    for connection in connections:
        await connection.close()
    await box.store.close()


if __name__ == "__main__":
    asyncio.run(main())
