"""omni-box on PostgreSQL: asked every few milliseconds, since nothing wakes it."""

from __future__ import annotations

import asyncio
import time

from omni_box import OutboxEvent, OutboxPublisher
from omni_box.core.protocols import EventPublisher
from omni_box.infra.storage.postgres import PostgresOutboxRepository
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from benchmarks.competitors.omni_box_relay import OutboxRow, create_tables, engine_of, event_of
from benchmarks.latency import Arrivals, is_producer, measure, produce, warmed_up
from benchmarks.measure import Task, task
from benchmarks.order import body_of, key_of, number_in


class Noting(EventPublisher):
    """Notes when an event comes."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals

    async def publish(self, event: OutboxEvent, repo: object) -> None:
        """Note one."""
        self._arrivals.note(number_in(str(event.payload["order_id"]).encode()))


async def produce_by_repository(todo: Task, sessions: async_sessionmaker[AsyncSession]) -> None:
    """Create events as a user would: in a session's transaction."""

    async def publish(number: int) -> float:
        async with sessions() as session, session.begin():
            event = event_of(body_of(number), key_of(number))
            await PostgresOutboxRepository(session, model_class=OutboxRow).create(event)
            return time.time()

    await produce(todo, publish)


async def poll(sessions: async_sessionmaker[AsyncSession], broker: EventPublisher, *, every_s: float) -> None:
    """Publish until cancelled."""
    while True:
        async with sessions() as session, session.begin():
            publisher = OutboxPublisher(PostgresOutboxRepository(session, model_class=OutboxRow), broker)
            done = await publisher.publish_batch(worker_id="relay", batch_size=100)
        if not done.processed_event_ids:
            await asyncio.sleep(every_s)


async def main() -> None:
    """Relay what another process creates."""
    todo = task()
    engine = engine_of(todo)
    sessions = async_sessionmaker(engine)
    if is_producer(todo):
        await produce_by_repository(todo, sessions)
        return
    todo = warmed_up(todo)
    await create_tables(engine)
    arrivals = Arrivals(todo.count)
    async with asyncio.TaskGroup() as group:
        polling = group.create_task(poll(sessions, Noting(arrivals), every_s=todo.options.get("poll_ms", 5) / 1000))
        await measure(todo, arrivals, module="benchmarks.competitors.omni_box_latency")
        polling.cancel()
    await engine.dispose()


asyncio.run(main())
