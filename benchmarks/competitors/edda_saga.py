"""edda: a workflow of four activities; a start returns when the workflow has ended.

An activity is a row in ``workflow_history`` and an UPDATE of ``workflow_instances`` in one transaction, behind and
before reads that look whether the workflow was cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3

import uvloop
from edda import EddaApp, WorkflowContext, activity, workflow
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.measure import Stopwatch, Task, task
from benchmarks.sagas import CREATE_ACCOUNTS, IDLE_S, account_of, one_by_one, state_of

UPDATE = text("UPDATE accounts SET orders = orders + 1 WHERE id = :id")
logging.disable(logging.ERROR)


@activity
async def first(ctx: WorkflowContext, order_id: str) -> None:
    """Do nothing."""


@activity
async def second(ctx: WorkflowContext, order_id: str) -> None:
    """Do nothing."""


@activity
async def third(ctx: WorkflowContext, order_id: str) -> None:
    """Do nothing."""


@activity
async def fourth(ctx: WorkflowContext, order_id: str) -> None:
    """Do nothing."""


@activity
async def update(ctx: WorkflowContext, order_id: str) -> None:
    """Update a row in the activity's transaction."""
    await ctx.session.execute(UPDATE, {"id": account_of(order_id)})


@workflow
async def of_steps(ctx: WorkflowContext, order_id: str, total_cents: int) -> None:
    """Take four steps."""
    for step in (first, second, third, fourth):
        await step(ctx, order_id)


@workflow
async def of_updates(ctx: WorkflowContext, order_id: str, total_cents: int) -> None:
    """Take four steps of one UPDATE each."""
    for step in (update, update, update, update):
        await step(ctx, order_id)


SAGAS = {"steps": of_steps, "updates": of_updates}


def url_of(todo: Task) -> str:
    """Return the task's database as SQLAlchemy names it."""
    if todo.url.startswith("sqlite"):  # a file remembers it; edda itself would stay with the slower rollback journal
        connection = sqlite3.connect(todo.file)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        return todo.url.replace("sqlite://", "sqlite+aiosqlite://")
    return todo.url.replace("postgresql://", "postgresql+asyncpg://")


async def count_completed(engine: AsyncEngine) -> int:
    """Count the workflows that lie in its table as completed."""
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT count(*) FROM workflow_instances WHERE status = 'completed'"))
        return int(found.scalar_one())


async def main() -> None:
    """Run all sagas."""
    todo = task()
    url, at_once = url_of(todo), int(todo.options.get("at_once", 1))
    saga = SAGAS[todo.options.get("kind", "steps")]
    engine = create_async_engine(url)
    if saga is of_updates:
        async with engine.begin() as connection:
            for statement in CREATE_ACCOUNTS:
                await connection.execute(text(statement))
    app = EddaApp("bench", url, pool_size=max(5, at_once), pool_pre_ping=False)
    await app.initialize()

    left_to_it: list[int] = []

    async def run(number: int) -> None:
        try:
            await saga.start(**state_of(number))
        except RuntimeError:  # its own loop for what a crash has left saw the row first, and runs it
            left_to_it.append(number)

    await run(0)  # alone, and not counted: several first ones at once would all insert the workflow's definition
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    times = await one_by_one(todo.count, at_once=at_once, run=run)
    while left_to_it and await count_completed(engine) <= todo.count:  # noqa: ASYNC110 - the table does not ring
        await asyncio.sleep(IDLE_S)
    stopwatch.report(await count_completed(engine) - 1, p50_ms=times.p50_ms)
    await app.shutdown()
    await engine.dispose()


if __name__ == "__main__":
    uvloop.run(main())
