"""The floor: a row for each saga, an INSERT and four guarded UPDATEs, each its own commit, on asyncpg connections.

No definition, no leases, no journal. Kind ``group``: one statement moves so many sagas by a step. Kind ``update``: the
transaction of a step has an UPDATE of the user's too.
"""

from __future__ import annotations

import asyncio
import time

import asyncpg

from benchmarks.measure import Stopwatch, task
from benchmarks.sagas import CREATE_ACCOUNTS, STEPS, Times, account_of, as_json, chunks, in_lanes, state_of

CREATE = "CREATE TABLE sagas (id bigint PRIMARY KEY, status text NOT NULL, version int NOT NULL, state text NOT NULL)"
START = "INSERT INTO sagas (id, status, version, state) VALUES ($1, 'running', 0, $2)"
MOVE = "UPDATE sagas SET version = version + 1, status = $3, state = $4 WHERE id = $1 AND version = $2"
UPDATE = "UPDATE accounts SET orders = orders + 1 WHERE id = $1"
START_GROUP = """
    INSERT INTO sagas (id, status, version, state)
    SELECT id, 'running', 0, state FROM unnest($1::bigint[], $2::text[]) AS new (id, state)
"""
MOVE_GROUP = """
    UPDATE sagas SET version = sagas.version + 1, status = $3, state = moved.state
    FROM unnest($1::bigint[], $4::text[]) AS moved (id, state) WHERE sagas.id = moved.id AND sagas.version = $2
"""


def status_after(step: int) -> str:
    """Return the status of a saga that has taken this step."""
    return "completed" if step == STEPS - 1 else "running"


async def run_one(connection: asyncpg.Connection, numbers: range) -> None:
    """Run one saga."""
    number, state = numbers[0], as_json(numbers[0])
    await connection.execute(START, number, state)
    for step in range(STEPS):
        assert await connection.execute(MOVE, number, step, status_after(step), state) == "UPDATE 1"


async def run_updating(connection: asyncpg.Connection, numbers: range) -> None:
    """Run one saga whose steps update a row each."""
    number, state = numbers[0], as_json(numbers[0])
    account = account_of(str(state_of(number)["order_id"]))
    await connection.execute(START, number, state)
    for step in range(STEPS):
        async with connection.transaction():
            await connection.execute(UPDATE, account)
            assert await connection.execute(MOVE, number, step, status_after(step), state) == "UPDATE 1"


async def run_group(connection: asyncpg.Connection, numbers: range) -> None:
    """Run sagas side by side."""
    ids, states = list(numbers), [as_json(number) for number in numbers]
    await connection.execute(START_GROUP, ids, states)
    for step in range(STEPS):
        assert await connection.execute(MOVE_GROUP, ids, step, status_after(step), states) == f"UPDATE {len(ids)}"


async def main() -> None:
    """Run all sagas."""
    todo = task()
    connections = [await asyncpg.connect(todo.url) for _ in range(todo.options.get("connections", 1))]
    for statement in (CREATE, *CREATE_ACCOUNTS):
        await connections[0].execute(statement)
    run = {"one": run_one, "group": run_group, "update": run_updating}[todo.options.get("kind", "one")]
    waiting, times = chunks(todo.count, todo.options.get("group", 1)), Times()

    async def lane(number: int) -> None:
        for chunk in waiting:
            start = time.perf_counter()
            await run(connections[number], chunk)
            times.since(start)

    stopwatch = Stopwatch(todo)
    stopwatch.start()
    await in_lanes(len(connections), lane)
    completed = await connections[0].fetchval("SELECT count(*) FROM sagas WHERE status = 'completed'")
    stopwatch.report(completed, p50_ms=times.p50_ms)
    for connection in connections:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
