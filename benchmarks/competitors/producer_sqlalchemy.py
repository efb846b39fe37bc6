"""Producers on SQLAlchemy's asynchronous engine; the options are those of the producers on bare asyncpg."""

from __future__ import annotations

import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.competitors.orders import OrderPlaced, order_of
from benchmarks.competitors.producer_postgresql import BUSINESS, CREATE_BUSINESS
from benchmarks.measure import Stopwatch, task
from benchmarks.order import key_of
from pillarbox import Pillarbox

INSERT = text(BUSINESS.replace("$1", ":number"))


async def main() -> None:
    """Write."""
    todo = task()
    writers = todo.options["writers"]
    engine: AsyncEngine = create_async_engine(
        todo.url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=writers
    )
    box = Pillarbox("bench", store=engine)
    box.register(OrderPlaced)
    await box.migrate()
    async with engine.begin() as connection:
        await connection.execute(text(CREATE_BUSINESS))

    orders = [order_of(number) for number in range(todo.count)]

    async def write(numbers: range, *, publishes: bool) -> None:
        async with engine.connect() as connection:
            for number in numbers:
                async with connection.begin():
                    await connection.execute(INSERT, {"number": number})
                    if publishes:
                        await box.publish(orders[number], tx=connection, key=key_of(number))

    publishes = todo.options["publish"] == "pillarbox"
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    async with asyncio.TaskGroup() as group:
        for first in range(writers):
            group.create_task(write(range(first, todo.count, writers), publishes=publishes))
    async with engine.connect() as connection:
        count = (await connection.execute(text("SELECT count(*) FROM orders"))).scalar_one()
        stopwatch.report(count)
        published = (await connection.execute(text("SELECT count(*) FROM pillarbox_outbox"))).scalar_one()
        assert published == (count if publishes else 0)
    await engine.dispose()


asyncio.run(main())
