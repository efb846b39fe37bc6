"""absurd: a task of four steps, or of four commands to other tasks, worked off by lanes on a connection each.

A step is one statement that inserts a checkpoint and prolongs the claim; a task is spawned, claimed and completed by a
statement each. A reply is an event that the task awaits: it is put aside, and claimed again when the event has come.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import absurdctl
import psycopg
from absurd_sdk import AsyncAbsurd, AsyncTaskContext

from benchmarks.measure import Stopwatch, Task, task
from benchmarks.sagas import IDLE_S, STEPS, Times, chunks, in_lanes, state_of

QUEUE = "sagas"


class Worker:
    """One lane: a connection, on which it starts sagas and works off tasks, whosever they are.

    Attributes:
        completed: of all workers, counted by the handlers.
    """

    completed = 0

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._app = AsyncAbsurd(connection, queue_name=QUEUE)
        self._worked = 0
        for handler in (self.steps, self.requests, self.participant):
            self._app.register_task(handler.__name__)(handler)

    async def start(self, name: str, numbers: range) -> None:
        """Start sagas."""
        for number in numbers:
            await self._app.spawn(name, state_of(number))

    async def work(self, at_most: int) -> bool:
        """Claim tasks and work them off; tell whether there were any."""
        before = self._worked
        await self._app.work_batch(batch_size=at_most)
        return self._worked > before

    async def steps(self, params: Any, ctx: AsyncTaskContext) -> None:
        """Take four steps."""
        self._worked += 1
        for number in range(STEPS):
            await ctx.step(f"step-{number}", _nothing)
        Worker.completed += 1

    async def requests(self, params: Any, ctx: AsyncTaskContext) -> None:
        """Ask four times, awaiting each reply."""
        self._worked += 1
        for number in range(STEPS):
            reply = f"{params['order_id']}-{number}"
            await ctx.step(f"send-{number}", partial(self._send, reply))
            await ctx.await_event(reply)
        Worker.completed += 1

    async def participant(self, params: Any, ctx: AsyncTaskContext) -> None:
        """Reply."""
        self._worked += 1
        await ctx.emit_event(params["reply"])

    async def _send(self, reply: str) -> None:
        await self._app.spawn("participant", {"reply": reply})

    async def close(self) -> None:
        """End."""
        await self._app.close()


async def _nothing() -> None:
    """Do nothing."""


def count_completed(todo: Task, name: str) -> int:
    """Count the tasks that lie in its table as completed."""
    with psycopg.connect(todo.url) as connection:
        found = connection.execute(
            f"SELECT count(*) FROM absurd.t_{QUEUE} WHERE state = 'completed' AND task_name = %s", (name,)
        ).fetchone()
    assert found is not None
    return int(found[0])


async def main() -> None:
    """Run all sagas."""
    todo = task()
    with psycopg.connect(todo.url) as connection:
        connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
        connection.execute("SELECT absurd.create_queue(%s)", (QUEUE,))
    lanes, batch = int(todo.options.get("lanes", 1)), int(todo.options.get("batch", 1))
    name = todo.options.get("kind", "steps")
    workers = [Worker(await psycopg.AsyncConnection.connect(todo.url, autocommit=True)) for _ in range(lanes)]
    waiting, times = chunks(todo.count, batch), Times()

    async def lane(number: int) -> None:
        worker = workers[number]
        for chunk in waiting:
            start = time.perf_counter()
            await worker.start(name, chunk)
            await worker.work(batch)
            times.since(start)
        while Worker.completed < todo.count:
            if not await worker.work(batch):
                await asyncio.sleep(IDLE_S)

    stopwatch = Stopwatch(todo)
    stopwatch.start()
    await in_lanes(lanes, lane)
    stopwatch.report(count_completed(todo, name), p50_ms=times.p50_ms)
    for worker in workers:
        await worker.close()


if __name__ == "__main__":
    asyncio.run(main())
