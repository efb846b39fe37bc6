"""The floor: the leader of the raw relay, which hands each batch to librdkafka and waits for its confirms.

No leases, no order of keys behind a failure, no messages made; it sends a batch while the one before it is deleted and
the next read.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from confluent_kafka import Producer

from benchmarks.competitors.backlog import fill
from benchmarks.competitors.raw_relay_postgresql import DELETE, READ
from benchmarks.logs import TOPIC, count_records, make_topic, private_kafka
from benchmarks.measure import Stopwatch, task
from pillarbox import Pillarbox


def send(producer: Any, rows: list[asyncpg.Record]) -> None:
    """Send ``rows`` and wait for every confirm."""
    waiting = len(rows)

    def confirmed(error: object, _message: object) -> None:
        nonlocal waiting
        assert error is None, error
        waiting -= 1

    for row in rows:
        headers = [("ce_id", str(row[1]).encode()), ("ce_type", row[2].encode())]
        producer.produce(TOPIC, row[7], row[4], headers=headers, on_delivery=confirmed)
    while waiting:
        producer.poll(0.1)


async def main() -> None:
    """Fill the outbox and drain it."""
    todo = task()
    box = Pillarbox("bench", store=todo.url)
    await fill(box, todo.count)
    await box.store.close()
    source, deleter = await asyncpg.connect(todo.url), await asyncpg.connect(todo.url)
    read, delete = await source.prepare(READ), await deleter.prepare(DELETE)
    with private_kafka() as server:
        make_topic(server)
        producer = Producer({"bootstrap.servers": server.address, "enable.idempotence": True, "linger.ms": 0})
        stopwatch = Stopwatch(todo)
        stopwatch.start()
        count = 0
        rows, sent = await read.fetch(0), list[int]()
        while rows or sent:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(read.fetch(rows[-1][0])) if rows else None
                group.create_task(delete.fetch(sent))
                group.create_task(asyncio.to_thread(send, producer, rows))
            count += len(rows)
            rows, sent = reading.result() if reading else [], [row[0] for row in rows]
        stopwatch.report(count)
        assert count_records(server) == todo.count
    assert await source.fetchval("SELECT count(*) FROM pillarbox_outbox") == 0
    await source.close()
    await deleter.close()


asyncio.run(main())
