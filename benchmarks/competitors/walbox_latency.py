"""walbox on PostgreSQL: a checkpoint every 100 transactions on a pooled connection."""

from __future__ import annotations

import asyncio
import time

import psycopg
from psycopg_pool import AsyncConnectionPool
from walbox import CheckpointHandle, Transaction, Walbox

from benchmarks.competitors.walbox_log import HEADERS, options, prepare
from benchmarks.latency import Arrivals, is_producer, measure, produce, warmed_up
from benchmarks.measure import Task, task
from benchmarks.order import body_of, key_of, number_in

INSERT = "INSERT INTO outbox (topic, key, headers, payload) VALUES ('order', %s, %s, %s)"


async def produce_by_insert(todo: Task) -> None:
    """Insert into the table that is tailed."""
    async with await psycopg.AsyncConnection.connect(todo.url, prepare_threshold=0) as connection:

        async def publish(number: int) -> float:
            async with connection.transaction():
                await connection.execute(INSERT, (key_of(number), HEADERS, body_of(number).decode()))
                return time.time()

        await produce(todo, publish)


async def main() -> None:
    """Read what another process inserts."""
    todo = task()
    if is_producer(todo):
        await produce_by_insert(todo)
        return
    todo = warmed_up(todo)
    prepare(todo.url, backlog=0)
    arrivals = Arrivals(todo.count)
    every = todo.options.get("checkpoint_every", 100)
    count = 0

    async def handle(transaction: Transaction, checkpoint: CheckpointHandle) -> None:
        nonlocal count
        for change in transaction.changes:
            assert change.new is not None
            arrivals.note(number_in(change.new["payload"].encode()))
        count += 1
        if count % every == 0:
            await checkpoint.save(transaction.commit_lsn)

    async with AsyncConnectionPool(todo.url, min_size=1, max_size=2, open=False) as pool:
        client = Walbox.build_with_pool(options(todo.url, pending=100), pool)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(client.run(handle))
            await measure(todo, arrivals, module="benchmarks.competitors.walbox_latency")
            reading.cancel()


asyncio.run(main())
