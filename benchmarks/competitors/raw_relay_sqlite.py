"""The floor: sqlite3 reads 500 rows in order, counts them and deletes them; no leases, no fencing, no messages made."""

from __future__ import annotations

import asyncio
import sqlite3

from benchmarks.competitors.backlog import fill
from benchmarks.measure import Stopwatch, task
from pillarbox import Pillarbox

READ = (
    "SELECT position, id, event_type, destination, message_key, content_type, headers, payload"
    " FROM pillarbox_outbox ORDER BY position LIMIT 500"
)
DELETE = "DELETE FROM pillarbox_outbox WHERE position = ?"


async def prepare(url: str, count: int) -> None:
    """Fill the outbox."""
    box = Pillarbox("bench", store=url)
    await fill(box, count)
    await box.store.close()


def main() -> None:
    """Fill the outbox and drain it."""
    todo = task()
    asyncio.run(prepare(todo.url, todo.count))
    connection = sqlite3.connect(todo.file, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    count = 0
    while rows := connection.execute(READ).fetchall():
        count += len(rows)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(DELETE, [(row[0],) for row in rows])
        connection.execute("COMMIT")
    stopwatch.report(count)
    connection.close()


main()
