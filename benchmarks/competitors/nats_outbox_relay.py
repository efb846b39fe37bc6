"""nats-outbox on PostgreSQL: batches of 500, to a stand-in for JetStream that only counts, or to a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import nats
from nats.js import JetStreamContext
from nats_outbox.core.models import Base
from nats_outbox.core.outbox import outbox_transaction
from nats_outbox.publishers.nats_publisher import NatsPublisher
from nats_outbox.relay.polling import PollingRelay
from nats_outbox.settings import OutboxSettings
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.measure import Stopwatch, Task, task
from benchmarks.order import BODY, KEYS
from benchmarks.streams import private


class CountingJetStream:
    """Acknowledges whatever is published, or lets the real one do so, and rings when all have come."""

    def __init__(self, expected: int, real: JetStreamContext | None = None) -> None:
        self.count = 0
        self.all_came = asyncio.Event()
        self._expected = expected
        self._real = real

    async def publish(self, subject: str, payload: bytes, **options: Any) -> object:
        """Count one."""
        answer: object = SimpleNamespace(stream="orders", seq=self.count, duplicate=False)
        if self._real is not None:
            answer = await self._real.publish(subject, payload, **options)
        self.count += 1
        if self.count >= self._expected:
            self.all_came.set()
        return answer


@asynccontextmanager
async def jetstream_of(todo: Task) -> AsyncGenerator[CountingJetStream]:
    """Return what is published to."""
    if not todo.options.get("nats"):
        yield CountingJetStream(todo.count)
        return
    with private("nats") as server:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="orders", subjects=["order.>"])
        yield CountingJetStream(todo.count, client.jetstream())
        assert (await client.jetstream().stream_info("orders")).state.messages == todo.count
        await client.close()


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
    async with jetstream_of(todo) as jetstream:
        await relay_all(todo, engine, url, jetstream)
    async with engine.connect() as connection:
        left = await connection.execute(text("SELECT count(*) FROM outbox_events WHERE status = 'pending'"))
        assert left.scalar() == 0
    await engine.dispose()


async def relay_all(todo: Task, engine: AsyncEngine, url: str, jetstream: CountingJetStream) -> None:
    """Drain the outbox."""
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


asyncio.run(main())
