"""txoutbox on PostgreSQL to a JetStream stream, at its other benchmark's settings; a publish of nats-py an event."""

from __future__ import annotations

import asyncio

import asyncpg
import nats
from txoutbox import OutboxMessage, Relay, RelayConfig
from txoutbox.adapters.postgres import PostgresStorage

from benchmarks.competitors.txoutbox_backlog import fill
from benchmarks.measure import Stopwatch, task
from benchmarks.streams import STREAM, private


async def main() -> None:
    """Fill the outbox and drain it."""
    todo = task()
    pool = await asyncpg.create_pool(todo.url, min_size=2, max_size=4)
    storage = PostgresStorage(pool, delete_on_ack=True, strict_ordering=todo.options.get("strict_ordering", True))
    await fill(storage, pool, todo.count)
    count = 0
    with private("nats") as server:
        client = await nats.connect(server.url)
        stream = client.jetstream()
        await stream.add_stream(name=STREAM, subjects=[STREAM])

        async def publish(message: OutboxMessage) -> None:
            nonlocal count
            await stream.publish(STREAM, message.payload, headers={"key": message.key or ""})
            count += 1
            if count >= todo.count:
                relay.stop()

        config = RelayConfig(
            batch_size=todo.options.get("batch", 500), concurrency=todo.options.get("concurrency", 100)
        )
        relay = Relay(storage, publish, config=config)
        stopwatch = Stopwatch(todo)
        stopwatch.start()
        await relay.run()
        stopwatch.report(count)
        assert (await stream.stream_info(STREAM)).state.messages == todo.count
        await client.close()
    await pool.close()


asyncio.run(main())
