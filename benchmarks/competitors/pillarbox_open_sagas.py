"""Our sagas that wait for a reply that does not come: how they get there, and how soon a new process finds the others.

It has found them when ``LEFT`` sagas that were started while no process ran have sent their commands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import text

from benchmarks.competitors.pillarbox_saga import Act, Acted, Order
from benchmarks.measure import Stopwatch, task
from benchmarks.sagas import IDLE_S, chunks, state_of
from pillarbox import Pillarbox, Saga

BATCH, LEFT = 500, 100
WITHIN = timedelta(days=1)
WAITING = text("SELECT count(*) FROM pillarbox_saga_instances WHERE steps = 'ask'")


def waiting_saga() -> Saga[Order]:
    """Return a saga of one request."""
    saga = Saga("fulfilment", state=Order)

    @saga.request(name="ask", replies=(Acted,), timeout=WITHIN)
    def ask(state: Order) -> Act:
        return Act(state.order_id)

    return saga


async def start(box: Pillarbox, saga: Saga[Order], batches: Iterator[range]) -> None:
    """Start sagas, a batch in each transaction."""
    for numbers in batches:
        async with box.transaction() as tx:
            states = {f"s-{number}": Order(**state_of(number)) for number in numbers}
            await box.sagas.start_all(saga, states, tx=tx)


async def waiting(box: Pillarbox, count: int) -> int:
    """Wait until as many sagas wait for their replies."""
    found = 0
    while found < count:
        await asyncio.sleep(IDLE_S)
        async with box.transaction() as tx:
            found = (await tx.execute(WAITING)).scalar_one()
    return found


def make_box(url: str) -> tuple[Pillarbox, Saga[Order]]:
    """Return a box, as a process has it that has just begun."""
    box, saga = Pillarbox("bench", store=url), waiting_saga()
    box.include(saga)
    return box, saga


async def main() -> None:
    """Open all sagas, then begin anew beside them."""
    todo = task()
    box, saga = make_box(todo.url)
    await box.migrate()
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    async with box.running():
        await start(box, saga, chunks(todo.count, BATCH))
        opened = await waiting(box, todo.count)
    stopwatch.lap()
    await start(box, saga, iter([range(todo.count, todo.count + LEFT)]))
    await box.store.close()

    box, _ = make_box(todo.url)
    began = time.perf_counter()
    async with box.running():
        await waiting(box, todo.count + LEFT)
        seconds = time.perf_counter() - began
    await box.store.close()
    stopwatch.report(opened, restart_s=seconds)


if __name__ == "__main__":
    asyncio.run(main())
