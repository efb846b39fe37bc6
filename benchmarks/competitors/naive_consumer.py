"""The naive idempotent consumer: for each message a transaction with an inbox row and the handler's UPDATE.

On SQLAlchemy's asynchronous connections, one or a few that are always the same, with the driver that we choose
ourselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.competitors.orders import (
    CREATE_ACCOUNTS,
    CREATE_INBOX,
    FILL_ACCOUNTS,
    OrderPlaced,
    account_of,
    messages,
)
from benchmarks.measure import Stopwatch, task
from pillarbox import Pillarbox
from pillarbox.message import Message

RECORD = text(
    "INSERT INTO inbox (consumer, message_id, processed_at) VALUES (:consumer, :id, :now) ON CONFLICT DO NOTHING"
)
UPDATE = text("UPDATE accounts SET orders = orders + 1 WHERE id = :id")


async def handle(engine: AsyncEngine, waiting: Iterator[Message]) -> None:
    """Handle messages one after the other, on a connection, until none is left."""
    decode = msgspec.json.Decoder(OrderPlaced).decode
    async with engine.connect() as connection:
        for message in waiting:
            async with connection.begin():
                identity = {"consumer": "count-orders", "id": message.id, "now": time.time_ns() // 1000}
                if (await connection.execute(RECORD, identity)).rowcount:
                    await connection.execute(UPDATE, {"id": account_of(decode(message.body).order_id)})


async def main() -> None:
    """Handle all messages, and see that each counted once."""
    todo = task()
    feed = messages(todo.count)
    engine = Pillarbox("bench", store=todo.url).store.engine  # for its driver, and for its settings of SQLite
    async with engine.begin() as tx:
        for statement in (CREATE_ACCOUNTS, CREATE_INBOX, FILL_ACCOUNTS[engine.dialect.name]):
            await tx.execute(text(statement))
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    waiting = iter(feed)
    async with asyncio.TaskGroup() as group:
        for _ in range(int(todo.options.get("connections", 1))):
            group.create_task(handle(engine, waiting))
    stopwatch.report(len(feed))
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT sum(orders) FROM accounts"))).scalar() == todo.count
    await engine.dispose()


asyncio.run(main())
