"""omni-box on PostgreSQL: batches of 500, of which each holds at most one event of a key."""

from __future__ import annotations

import asyncio
import json
import logging
from uuid import NAMESPACE_OID, uuid5

import structlog
from omni_box import OmniBoxDomainService, OutboxEvent, OutboxPublisher
from omni_box.core.protocols import EventPublisher
from omni_box.infra.storage.postgres import PostgresOutboxRepository
from omni_box.infra.storage.postgres.orm import OutboxEventDBBase
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from benchmarks.measure import Stopwatch, Task, task
from benchmarks.order import BODY, KEYS

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


class Base(DeclarativeBase):
    """Its table."""


class OutboxRow(OutboxEventDBBase, Base):
    """A row of its outbox."""

    __tablename__ = "outbox_events"


def engine_of(todo: Task) -> AsyncEngine:
    """Return an engine on the task's database."""
    return create_async_engine(todo.url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=2)


async def create_tables(engine: AsyncEngine) -> None:
    """Create its outbox."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


def event_of(body: bytes, key: str) -> OutboxEvent:
    """Return an event as its domain service makes it."""
    return OmniBoxDomainService().create_outbox_event(
        aggregate_type="order",
        aggregate_id=uuid5(NAMESPACE_OID, key),
        event_type="order.placed",
        topic="order",
        partition_key=key,
        payload=json.loads(body),
    )


class Counting(EventPublisher):
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    async def publish(self, event: OutboxEvent, repo: object) -> None:
        """Count one."""
        self.count += 1


async def main() -> None:
    """Fill the outbox by its own repository, multiplied in the database, and drain it."""
    todo = task()
    engine = engine_of(todo)
    await create_tables(engine)
    sessions = async_sessionmaker(engine)
    async with sessions() as session, session.begin():
        await PostgresOutboxRepository(session, model_class=OutboxRow).create(event_of(BODY, "o-1"))
    names = [column.name for column in OutboxRow.__table__.columns]
    made = {
        "id": "gen_random_uuid()",
        "partition_key": "'o-' || n % :keys",
        "created_at": "created_at + n * interval '1 us'",
    }
    values = ", ".join(made.get(name, name) for name in names)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                f"INSERT INTO outbox_events ({', '.join(names)})"
                f" SELECT {values} FROM outbox_events, generate_series(2, :count) AS n"
            ),
            {"count": todo.count, "keys": KEYS},
        )
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE outbox_events"))
        await connection.execute(text("CHECKPOINT"))
    broker = Counting()
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    while broker.count < todo.count:
        async with sessions() as session, session.begin():
            publisher = OutboxPublisher(PostgresOutboxRepository(session, model_class=OutboxRow), broker)
            done = await publisher.publish_batch(worker_id="relay", batch_size=todo.options.get("batch", 500))
        if not done.processed_event_ids:
            await asyncio.sleep(0.005)
    stopwatch.report(broker.count)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
