"""The floor: the leader of the raw relay, which appends each batch to one stream in a pipeline of packed commands.

No leases, no order of keys, no messages made; it appends a batch while the one before it is deleted and the next read.
"""

from __future__ import annotations

import asyncio

import asyncpg
import hiredis

from benchmarks.competitors.backlog import fill
from benchmarks.competitors.raw_relay_postgresql import DELETE, READ
from benchmarks.measure import Stopwatch, task
from benchmarks.streams import STREAM, private
from pillarbox import Pillarbox


async def append(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rows: list[asyncpg.Record]) -> None:
    """Append ``rows`` and wait for every answer."""
    packed = [
        hiredis.pack_command(("XADD", STREAM, "*", "id", row[1], "type", row[2], "key", row[4], "body", row[7]))
        for row in rows
    ]
    writer.write(b"".join(packed))
    answers = hiredis.Reader()
    for _ in rows:
        while (answer := answers.gets()) is False:
            answers.feed(await reader.read(1 << 16))
        assert isinstance(answer, bytes), answer


async def main() -> None:
    """Fill the outbox and drain it."""
    todo = task()
    box = Pillarbox("bench", store=todo.url)
    await fill(box, todo.count)
    await box.store.close()
    source, deleter = await asyncpg.connect(todo.url), await asyncpg.connect(todo.url)
    read, delete = await source.prepare(READ), await deleter.prepare(DELETE)
    with private("redis") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        stopwatch = Stopwatch(todo)
        stopwatch.start()
        count = 0
        rows, appended = await read.fetch(0), list[int]()
        while rows or appended:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(read.fetch(rows[-1][0])) if rows else None
                group.create_task(delete.fetch(appended))
                group.create_task(append(reader, writer, rows))
            count += len(rows)
            rows, appended = reading.result() if reading else [], [row[0] for row in rows]
        stopwatch.report(count)
        writer.close()
    assert await source.fetchval("SELECT count(*) FROM pillarbox_outbox") == 0
    await source.close()
    await deleter.close()


asyncio.run(main())
