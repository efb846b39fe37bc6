"""The floor: asyncpg reads 500 rows in order, counts them and deletes them; no leases, no fencing, no messages made."""

from __future__ import annotations

import asyncio

import asyncpg

from benchmarks.competitors.backlog import fill
from benchmarks.measure import Stopwatch, task
from pillarbox import Pillarbox

READ = (
    "SELECT position, id, event_type, destination, message_key, content_type, headers, payload"
    " FROM pillarbox_outbox ORDER BY position LIMIT 500"
)
DELETE = "DELETE FROM pillarbox_outbox WHERE position = ANY($1)"


async def main() -> None:
    """Fill the outbox and drain it."""
    todo = task()
    box = Pillarbox("bench", store=todo.url)
    await fill(box, todo.count)
    await box.store.close()
    connection = await asyncpg.connect(todo.url)
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    count = 0
    while rows := await connection.fetch(READ):
        count += len(rows)
        await connection.execute(DELETE, [row[0] for row in rows])
    stopwatch.report(count)
    await connection.close()


asyncio.run(main())
