"""txoutbox on PostgreSQL: rows deleted when acknowledged; unless told otherwise batches of 500, and keys in order."""

from __future__ import annotations

import asyncio

import asyncpg
from txoutbox import OutboxMessage, Relay, RelayConfig
from txoutbox.adapters.postgres import PostgresStorage

from benchmarks.competitors.txoutbox_backlog import fill
from benchmarks.measure import Stopwatch, task


async def main() -> None:
    """Fill the outbox and drain it."""
    todo = task()
    pool = await asyncpg.create_pool(todo.url, min_size=2, max_size=4)
    storage = PostgresStorage(pool, delete_on_ack=True, strict_ordering=todo.options.get("strict_ordering", True))
    await fill(storage, pool, todo.count)
    count = 0

    async def publish(message: OutboxMessage) -> None:
        nonlocal count
        count += 1
        if count >= todo.count:
            relay.stop()

    batch, concurrency = todo.options.get("batch", 500), todo.options.get("concurrency", 100)
    config = RelayConfig(batch_size=batch, concurrency=concurrency)
    relay = Relay(storage, publish, config=config)
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    await relay.run()
    stopwatch.report(count)
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 0
    await pool.close()


asyncio.run(main())
