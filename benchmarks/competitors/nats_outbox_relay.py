"""nats-outbox on PostgreSQL: batches of 500, to a stand-in for its JetStream context that only counts."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from nats_outbox.core.models import Base
from nats_outbox.core.outbox import outbox_transaction
from nats_outbox.publishers.nats_publisher import NatsPublisher
from nats_outbox.relay.polling import PollingRelay
from nats_outbox.settings import OutboxSettings
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.measure import Stopwatch, task
from benchmarks.order import BODY, KEYS


class CountingJetStream:
    """Acknowledges whatever is published, and rings when all have come."""

    def __init__(self, expected: int) -> None:
        self.count = 0
        self.all_came = asyncio.Event()
        self._expected = expected

    async def publish(self, subject: str, payload: bytes, **_options: object) -> object:
        """Count one."""
        self.count += 1
        if self.count >= self._expected:
            self.all_came.set()
        return SimpleNamespace(stream="orders", seq=self.count, duplicate=False)


async def main() -> None:
    """Fill the outbox by its own transaction, multiplied in the database, and drain it."""
    todo = task()
    url = todo.url.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, pool_size=5)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session, outbox_transaction(session) as tx:
        tx.publish_event("order.placed", {}, aggregate_id="o-1", aggregate_type="order")
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE outbox_events SET payload = CAST(:body AS jsonb)"), {"body": BODY.decode()}
        )
        await connection.execute(
            text(
                "INSERT INTO outbox_events (event_id, subject, headers, payload, aggregate_id, aggregate_type,"
                " status, retry_count, scheduled_at)"
                " SELECT gen_random_uuid(), subject, headers, payload, 'o-' || n % :keys, aggregate_type,"
                " status, retry_count, scheduled_at FROM outbox_events, generate_series(2, :count) AS n"
            ),
            {"count": todo.count, "keys": KEYS},
        )
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE outbox_events"))
        await connection.execute(text("CHECKPOINT"))
    jetstream = CountingJetStream(todo.count)
    settings = OutboxSettings(database_url=url, batch_size=todo.options.get("batch", 500), polling_interval=0.005)
    publisher = NatsPublisher(jetstream)
    relay = PollingRelay(async_sessionmaker(engine, expire_on_commit=False), publisher, settings)
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(relay.start())
        await jetstream.all_came.wait()
        await relay.stop()
    stopwatch.report(jetstream.count)
    async with engine.connect() as connection:
        left = await connection.execute(text("SELECT count(*) FROM outbox_events WHERE status = 'pending'"))
        assert left.scalar() == 0
    await engine.dispose()


asyncio.run(main())
