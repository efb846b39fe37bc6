"""txoutbox on PostgreSQL, woken by the NOTIFY of its trigger."""

from __future__ import annotations

import asyncio
import time

import asyncpg
from txoutbox import OutboxMessage, Relay, RelayConfig
from txoutbox.adapters.postgres import PostgresStorage

from benchmarks.latency import Arrivals, is_producer, measure, produce, warmed_up
from benchmarks.measure import Task, task
from benchmarks.order import body_of, key_of, number_in


async def produce_by_insert(todo: Task) -> None:
    """Insert as a user would: by the storage, in a transaction."""
    pool = await asyncpg.create_pool(todo.url, min_size=1, max_size=1)
    storage = PostgresStorage(pool, delete_on_ack=True, notify_channel="outbox")
    async with pool.acquire() as connection:

        async def publish(number: int) -> float:
            async with connection.transaction():
                await storage.insert(connection, "order", body_of(number), key=key_of(number))
                return time.time()

        await produce(todo, publish)


async def main() -> None:
    """Relay what another process inserts."""
    todo = task()
    if is_producer(todo):
        await produce_by_insert(todo)
        return
    todo = warmed_up(todo)
    pool = await asyncpg.create_pool(todo.url, min_size=3, max_size=5)
    storage = PostgresStorage(pool, delete_on_ack=True, notify_channel="outbox")
    await storage.create_schema()
    arrivals = Arrivals(todo.count)

    async def publish(message: OutboxMessage) -> None:
        arrivals.note(number_in(message.payload))

    poll_s = todo.options.get("poll_ms", 50) / 1000
    relay = Relay(storage, publish, config=RelayConfig(batch_size=100, concurrency=100, poll_min=poll_s))
    async with await storage.listen(relay.wake), asyncio.TaskGroup() as group:
        group.create_task(relay.run())
        await measure(todo, arrivals, module="benchmarks.competitors.txoutbox_latency")
        relay.stop()
    await pool.close()


asyncio.run(main())
