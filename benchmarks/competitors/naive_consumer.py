"""The naive idempotent consumer: for each message a transaction with an inbox row and the handler's UPDATE.

On SQLAlchemy's asynchronous connection, one and always the same, with the driver that we choose ourselves.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
from sqlalchemy import text

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

RECORD = text(
    "INSERT INTO inbox (consumer, message_id, processed_at) VALUES (:consumer, :id, :now) ON CONFLICT DO NOTHING"
)
UPDATE = text("UPDATE accounts SET orders = orders + 1 WHERE id = :id")


async def main() -> None:
    """Handle all messages, and see that each counted once."""
    todo = task()
    feed = messages(todo.count)
    engine = Pillarbox("bench", store=todo.url).store.engine  # for its driver, and for its settings of SQLite
    async with engine.begin() as tx:
        for statement in (CREATE_ACCOUNTS, CREATE_INBOX, FILL_ACCOUNTS[engine.dialect.name]):
            await tx.execute(text(statement))
    decode = msgspec.json.Decoder(OrderPlaced).decode
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    count = 0
    async with engine.connect() as connection:
        for message in feed:
            async with connection.begin():
                identity = {"consumer": "count-orders", "id": message.id, "now": time.time_ns() // 1000}
                if (await connection.execute(RECORD, identity)).rowcount:
                    await connection.execute(UPDATE, {"id": account_of(decode(message.body).order_id)})
            count += 1
    stopwatch.report(count)
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT sum(orders) FROM accounts"))).scalar() == todo.count
    await engine.dispose()


asyncio.run(main())
