"""faststream-outbox on PostgreSQL: 8 workers, batches of 1,000, deletions of 500 at once; it keeps no order of keys."""

from __future__ import annotations

import asyncio

from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import MetaData, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.measure import Stopwatch, task
from benchmarks.order import BODY

WITHIN_S = 300


async def main() -> None:
    """Fill the outbox by its own publish, multiplied in the database, and drain it."""
    todo = task()
    metadata = MetaData()
    table = make_outbox_table(metadata, table_name="outbox")
    engine = create_async_engine(todo.url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=20)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    broker = OutboxBroker(engine, outbox_table=table, logger=None)
    count, done = 0, asyncio.Event()

    @broker.subscriber(
        "orders",
        max_workers=todo.options.get("workers", 8),
        fetch_batch_size=todo.options.get("batch", 1000),
        terminal_flush_batch_size=todo.options.get("flush", 500),
        min_fetch_interval=0.01,
    )
    async def relay(body: dict[str, object]) -> None:
        nonlocal count
        count += 1
        if count >= todo.count:
            done.set()

    async with AsyncSession(engine) as session, session.begin():
        await broker.publish(BODY, queue="orders", session=session)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO outbox (queue, payload, headers)"
                " SELECT queue, payload, headers FROM outbox, generate_series(2, :count)"
            ),
            {"count": todo.count},
        )
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE outbox"))
        await connection.execute(text("CHECKPOINT"))
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    await broker.start()
    async with asyncio.timeout(WITHIN_S):
        await done.wait()
    await broker.stop()
    stopwatch.report(count)
    async with engine.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(table))).scalar() == 0
    await engine.dispose()


asyncio.run(main())
