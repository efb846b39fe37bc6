"""FastStream on one quorum queue, a hundred messages prefetched; with ``inbox``, a row for each in a transaction."""

from __future__ import annotations

import asyncio

import asyncpg
from faststream import Context
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from benchmarks.measure import Stopwatch, task
from benchmarks.order import BODY
from benchmarks.queues import AT_ONCE, private_rabbitmq

CREATE_INBOX = (
    "CREATE TABLE inbox (consumer VARCHAR(200) NOT NULL, message_id VARCHAR(200) NOT NULL,"
    " processed_at TIMESTAMPTZ NOT NULL DEFAULT now(), PRIMARY KEY (consumer, message_id))"
)
RECORD = "INSERT INTO inbox (consumer, message_id) VALUES ('count-orders', $1) ON CONFLICT DO NOTHING"
PREFETCH = 100
WITHIN_S = 300


async def main() -> None:
    """Fill the queue by FastStream's own publish, and handle everything."""
    todo = task()
    pool = await asyncpg.create_pool(todo.url, min_size=4, max_size=10)
    await pool.execute(CREATE_INBOX)
    with_inbox = bool(todo.options.get("inbox"))
    queue = RabbitQueue("orders", queue_type=QueueType.QUORUM, durable=True)
    with private_rabbitmq() as server:
        await _fill(server.url, queue, todo.count)
        broker = RabbitBroker(server.url, default_channel=Channel(prefetch_count=PREFETCH), logger=None)
        count, done = 0, asyncio.Event()

        @broker.subscriber(queue)
        async def count_orders(body: dict[str, object], message_id: str = Context("message.message_id")) -> None:
            nonlocal count
            if with_inbox:
                await pool.execute(RECORD, message_id)
            count += 1
            if count >= todo.count:
                done.set()

        stopwatch = Stopwatch(todo)
        stopwatch.start()
        await broker.start()
        async with asyncio.timeout(WITHIN_S):
            await done.wait()
        stopwatch.report(count)
        await broker.stop()
    assert not with_inbox or await pool.fetchval("SELECT count(*) FROM inbox") == todo.count
    await pool.close()


async def _fill(url: str, queue: RabbitQueue, count: int) -> None:
    broker = RabbitBroker(url, logger=None)
    await broker.start()
    await broker.declare_queue(queue)
    for begin in range(0, count, AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, count - begin)):
                group.create_task(broker.publish(BODY, queue=queue, persist=True))
    await broker.stop()


asyncio.run(main())
