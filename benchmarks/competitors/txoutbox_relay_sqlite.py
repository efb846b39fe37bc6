"""txoutbox on SQLite: rows deleted when acknowledged, batches of 500, synchronous = FULL as with ours."""

from __future__ import annotations

import asyncio
import sqlite3

from txoutbox import OutboxMessage, Relay, RelayConfig
from txoutbox.adapters.sqlite import SqliteStorage

from benchmarks.measure import Stopwatch, task
from benchmarks.order import BODY, KEYS


async def main() -> None:
    """Fill the outbox by its own insert, multiplied in the database, and drain it."""
    todo = task()
    storage = SqliteStorage(todo.file, delete_on_ack=True)  # SQLite's own default is synchronous = FULL
    storage.create_schema()
    await storage.add("order", BODY, key="o-1", headers={"source": "shop"})
    with sqlite3.connect(todo.file) as connection:
        connection.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
            " INSERT INTO outbox (topic, key, payload, headers, created_at)"
            " SELECT topic, 'o-' || n % ?, payload, headers, created_at FROM outbox, numbers WHERE n <= ? ORDER BY n",
            (todo.count, KEYS, todo.count),
        )
    connection.close()
    count = 0

    async def publish(message: OutboxMessage) -> None:
        nonlocal count
        count += 1
        if count >= todo.count:
            relay.stop()

    relay = Relay(storage, publish, config=RelayConfig(batch_size=500, concurrency=100))
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    await relay.run()
    stopwatch.report(count)
    storage.close()


asyncio.run(main())
