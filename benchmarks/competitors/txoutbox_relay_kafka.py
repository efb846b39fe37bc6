"""txoutbox on PostgreSQL to Kafka by aiokafka, at the settings of its other benchmark; each awaits its confirm."""

from __future__ import annotations

import asyncio

import asyncpg
from aiokafka import AIOKafkaProducer
from txoutbox import OutboxMessage, Relay, RelayConfig
from txoutbox.adapters.postgres import PostgresStorage

from benchmarks.competitors.txoutbox_backlog import fill
from benchmarks.logs import TOPIC, count_records, make_topic, private_kafka
from benchmarks.measure import Stopwatch, task


async def main() -> None:
    """Fill the outbox and drain it."""
    todo = task()
    pool = await asyncpg.create_pool(todo.url, min_size=2, max_size=4)
    storage = PostgresStorage(pool, delete_on_ack=True, strict_ordering=todo.options.get("strict_ordering", True))
    await fill(storage, pool, todo.count)
    count = 0
    with private_kafka() as server:
        make_topic(server)
        producer = AIOKafkaProducer(bootstrap_servers=server.address, enable_idempotence=True)
        await producer.start()

        async def publish(message: OutboxMessage) -> None:
            nonlocal count
            await producer.send_and_wait(TOPIC, message.payload, key=(message.key or "").encode())
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
        await producer.stop()
        assert count_records(server) == todo.count
    await pool.close()


asyncio.run(main())
