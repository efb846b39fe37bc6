"""walbox on PostgreSQL: a checkpoint every 1,000 transactions on a pooled connection; it makes no messages."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg_pool import AsyncConnectionPool
from walbox import CheckpointHandle, Transaction, Walbox, WalboxOptions

from benchmarks.measure import Stopwatch, task
from benchmarks.order import BODY, KEYS
from benchmarks.wal import CREATE_PLAIN, PLAIN_ROW, each_committed

HEADERS = '{"source": "shop"}'


def prepare(url: str, backlog: int) -> None:
    """Create an outbox, a publication of its inserts and a slot, and write the backlog behind it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(CREATE_PLAIN)
        connection.execute("CREATE PUBLICATION bench FOR TABLE outbox WITH (publish = 'insert')")
        connection.execute("SELECT pg_create_logical_replication_slot('bench', 'pgoutput')")
        row = PLAIN_ROW.format(keys=KEYS, headers=HEADERS, body=BODY.decode())
        connection.execute(each_committed(row, backlog))


def options(url: str, *, pending: int) -> WalboxOptions:
    """Return walbox's options; of the pending transactions more than the default make it no slower."""
    return WalboxOptions(
        consumer_name="bench",
        dsn=url,
        slot_name="bench",
        publication_name="bench",
        max_pending_transactions=pending,
    )


async def main() -> None:
    """Read the backlog."""
    todo = task()
    prepare(todo.url, todo.count)
    every = todo.options.get("checkpoint_every", 1000)
    async with AsyncConnectionPool(todo.url, min_size=1, max_size=2, open=False) as pool:
        client = Walbox.build_with_pool(options(todo.url, pending=todo.options.get("pending", 1000)), pool)
        count = 0
        all_came = asyncio.Event()

        async def handle(transaction: Transaction, checkpoint: CheckpointHandle) -> None:
            nonlocal count
            before, count = count, count + len(transaction.changes)
            if count // every > before // every or count >= todo.count:
                await checkpoint.save(transaction.commit_lsn)
            if count >= todo.count:
                all_came.set()

        stopwatch = Stopwatch(todo)
        stopwatch.start()
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(client.run(handle))
            await all_came.wait()
            stopwatch.report(count)
            reading.cancel()  # its own close waits for up to a status interval, which is not work


if __name__ == "__main__":
    asyncio.run(main())
