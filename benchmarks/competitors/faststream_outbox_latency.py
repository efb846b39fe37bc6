"""faststream-outbox on PostgreSQL, woken by the NOTIFY that its publish does inside the producer's transaction."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.latency import Arrivals, is_producer, measure, produce, warmed_up
from benchmarks.measure import Task, task
from benchmarks.order import body_of, number_in


async def produce_by_publish(todo: Task) -> None:
    """Publish as a user would: in a session's transaction."""
    engine = create_async_engine(todo.url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=1)
    broker = OutboxBroker(engine, outbox_table=make_outbox_table(MetaData(), table_name="outbox"), logger=None)

    async def publish(number: int) -> float:
        async with AsyncSession(engine) as session, session.begin():
            await broker.publish(body_of(number), queue="orders", session=session)
            return time.time()

    await produce(todo, publish)


async def main() -> None:
    """Relay what another process publishes."""
    todo = task()
    if is_producer(todo):
        await produce_by_publish(todo)
        return
    todo = warmed_up(todo)
    metadata = MetaData()
    table = make_outbox_table(metadata, table_name="outbox")
    engine = create_async_engine(todo.url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=20)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    broker = OutboxBroker(engine, outbox_table=table, logger=None)
    arrivals = Arrivals(todo.count)

    @broker.subscriber(
        "orders",
        max_workers=todo.options.get("workers", 4),
        fetch_batch_size=todo.options.get("batch", 100),
        min_fetch_interval=todo.options.get("poll_ms", 10) / 1000,
    )
    async def relay(body: dict[str, Any]) -> None:
        arrivals.note(number_in(body["order_id"].encode()))

    await broker.start()
    await measure(todo, arrivals, module="benchmarks.competitors.faststream_outbox_latency")
    await broker.stop()
    await engine.dispose()


asyncio.run(main())
