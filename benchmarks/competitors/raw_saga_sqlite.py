"""The floor on sqlite3 itself: a row for each saga, an INSERT and four guarded UPDATEs, each its own commit."""

from __future__ import annotations

import sqlite3
import time

from benchmarks.measure import Stopwatch, task
from benchmarks.sagas import STEPS, Times, as_json

CREATE = "CREATE TABLE sagas (id integer PRIMARY KEY, status text NOT NULL, version int NOT NULL, state text NOT NULL)"
START = "INSERT INTO sagas (id, status, version, state) VALUES (?, 'running', 0, ?)"
MOVE = "UPDATE sagas SET version = version + 1, status = ?, state = ? WHERE id = ? AND version = ?"


def main() -> None:
    """Run all sagas."""
    todo = task()
    connection = sqlite3.connect(todo.file, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(CREATE)
    times, stopwatch = Times(), Stopwatch(todo)
    stopwatch.start()
    for number in range(todo.count):
        start, state = time.perf_counter(), as_json(number)
        connection.execute(START, (number, state))
        for step in range(STEPS):
            status = "completed" if step == STEPS - 1 else "running"
            assert connection.execute(MOVE, (status, state, number, step)).rowcount == 1
        times.since(start)
    (completed,) = connection.execute("SELECT count(*) FROM sagas WHERE status = 'completed'").fetchone()
    stopwatch.report(completed, p50_ms=times.p50_ms)
    connection.close()


if __name__ == "__main__":
    main()
