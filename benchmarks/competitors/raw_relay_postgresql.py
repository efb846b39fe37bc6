"""The floor: one leader on two asyncpg connections, no leases, no fencing, no messages made.

It reads forward in batches of 500 and counts them, and deletes each while the next is read. A reader that only goes
forward skips what commits late; that is what makes it the floor and not a relay.
"""

from __future__ import annotations

import asyncio

import asyncpg

from benchmarks.competitors.backlog import fill
from benchmarks.measure import Stopwatch, task
from pillarbox import Pillarbox

READ = (
    "SELECT position, id, event_type, destination, message_key, content_type, headers, payload"
    " FROM pillarbox_outbox WHERE position > $1 ORDER BY position LIMIT 500"
)
DELETE = "DELETE FROM pillarbox_outbox WHERE position = ANY($1)"


async def main() -> None:
    """Fill the outbox and drain it."""
    todo = task()
    box = Pillarbox("bench", store=todo.url)
    await fill(box, todo.count)
    await box.store.close()
    reader, deleter = await asyncpg.connect(todo.url), await asyncpg.connect(todo.url)
    read, delete = await reader.prepare(READ), await deleter.prepare(DELETE)
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    count = 0
    rows = await read.fetch(0)
    while rows:
        count += len(rows)
        positions = [row[0] for row in rows]
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read.fetch(positions[-1]))
            group.create_task(delete.fetch(positions))
        rows = reading.result()
    stopwatch.report(count)
    assert await reader.fetchval("SELECT count(*) FROM pillarbox_outbox") == 0
    await reader.close()
    await deleter.close()


if __name__ == "__main__":
    asyncio.run(main())
