"""Our relay of one kind, with its default settings; the producer publishes through the public API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import asyncpg

from benchmarks.competitors.counting import CountingBroker, settings_of
from benchmarks.competitors.orders import OrderPlaced, order_of
from benchmarks.latency import Arrivals, is_producer, measure, produce, warmed_up
from benchmarks.measure import Task, task
from benchmarks.order import key_of, number_in
from pillarbox import Pillarbox, Settings
from pillarbox.message import Message


async def produce_by_publish(todo: Task) -> None:
    """Publish as a user would: in a transaction on a connection of its own."""
    box = Pillarbox("bench", store=todo.url)
    box.register(OrderPlaced)
    connection = await asyncpg.connect(todo.url)

    async def publish(number: int) -> float:
        async with connection.transaction():
            await box.publish(order_of(number), tx=connection, key=key_of(number))
            return time.time()

    await produce(todo, publish)
    await connection.close()


async def main() -> None:
    """Relay what another process publishes."""
    todo = task()
    if is_producer(todo):
        await produce_by_publish(todo)
        return
    todo = warmed_up(todo)
    arrivals = Arrivals(todo.count)

    def take(messages: Sequence[Message]) -> None:
        for message in messages:
            arrivals.note(number_in(message.body))

    broker = CountingBroker(todo.count, take=take)
    settings = Settings(relay=settings_of(todo.options.get("kind", "polling")))
    box = Pillarbox("bench", store=todo.url, broker=broker, settings=settings)
    await box.migrate()
    async with box.running(consumers=False):
        await measure(todo, arrivals, module="benchmarks.competitors.pillarbox_latency")
    await box.store.close()


asyncio.run(main())
