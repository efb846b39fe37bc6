"""faststream-outbox's producers: one row of business data a transaction, and its publish, which notifies inside it."""

from __future__ import annotations

import asyncio

from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.measure import Stopwatch, task
from benchmarks.order import body_of

CREATE_BUSINESS = (
    "CREATE TABLE orders (number bigint PRIMARY KEY, customer text NOT NULL, total_cents bigint NOT NULL,"
    " note text NOT NULL)"
)
INSERT = text(
    "INSERT INTO orders (number, customer, total_cents, note) VALUES (:number, 'Zoë Ångström', 4250, 'the neighbour')"
)


async def main() -> None:
    """Write."""
    todo = task()
    writers = todo.options["writers"]
    metadata = MetaData()
    table = make_outbox_table(metadata, table_name="outbox")
    engine = create_async_engine(todo.url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=writers)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(text(CREATE_BUSINESS))
    broker = OutboxBroker(engine, outbox_table=table, logger=None)

    async def write(numbers: range) -> None:
        async with AsyncSession(engine) as session:
            for number in numbers:
                async with session.begin():
                    await session.execute(INSERT, {"number": number})
                    await broker.publish(body_of(number), queue="orders", session=session)

    stopwatch = Stopwatch(todo)
    stopwatch.start()
    async with asyncio.TaskGroup() as group:
        for first in range(writers):
            group.create_task(write(range(first, todo.count, writers)))
    async with engine.connect() as connection:
        count = (await connection.execute(text("SELECT count(*) FROM outbox"))).scalar_one()
    stopwatch.report(count)
    await engine.dispose()


asyncio.run(main())
