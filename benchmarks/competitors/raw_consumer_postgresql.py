"""The naive idempotent consumer on asyncpg itself: a transaction for each message, and no layer above the driver."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import msgspec

from benchmarks.competitors.orders import (
    CREATE_ACCOUNTS,
    CREATE_INBOX,
    FILL_ACCOUNTS,
    OrderPlaced,
    account_of,
    messages,
)
from benchmarks.measure import Stopwatch, task

RECORD = "INSERT INTO inbox (consumer, message_id, processed_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
UPDATE = "UPDATE accounts SET orders = orders + 1 WHERE id = $1"


async def main() -> None:
    """Handle all messages."""
    todo = task()
    feed = messages(todo.count)
    connection = await asyncpg.connect(todo.url)
    for statement in (CREATE_ACCOUNTS, CREATE_INBOX, FILL_ACCOUNTS["postgresql"]):
        await connection.execute(statement)
    decode = msgspec.json.Decoder(OrderPlaced).decode
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    count = 0
    for message in feed:
        async with connection.transaction():
            recorded = await connection.execute(RECORD, "count-orders", message.id, time.time_ns() // 1000)
            if recorded.endswith("1"):
                await connection.execute(UPDATE, account_of(decode(message.body).order_id))
        count += 1
    stopwatch.report(count)
    await connection.close()


asyncio.run(main())
