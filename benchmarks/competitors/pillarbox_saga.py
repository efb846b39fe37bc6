"""Our sagas of four steps: in the saga's transaction, outside of it, or as commands over the database broker.

Sagas are started a batch at a time while fewer than ``at_once`` are open. One has ended when the process is told so
after the commit, and all of them when the table says so.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.measure import Stopwatch, task
from benchmarks.sagas import CREATE_ACCOUNTS, STEPS, Times, account_of, chunks, state_of
from pillarbox import Pillarbox, Saga, command, event
from pillarbox.observe import Event, Observer, SagaEnded

BATCH = 100
WITHIN = timedelta(minutes=5)
UPDATE = text("UPDATE accounts SET orders = orders + 1 WHERE id = :id")
COMPLETED = text("SELECT count(*) FROM pillarbox_saga_instances WHERE state = 'completed'")


@dataclass
class Order:
    """What a saga is about."""

    order_id: str
    total_cents: int


@command("participant.act", queue="participants", key="order_id")
@dataclass(frozen=True)
class Act:
    """What a saga of requests asks for, four times."""

    order_id: str


@event("participant.acted", key="order_id")
@dataclass(frozen=True)
class Acted:
    """The reply."""

    order_id: str


def saga_of_steps(kind: str) -> Saga[Order]:
    """Return a saga of four steps of a kind."""
    saga = Saga("fulfilment", state=Order, version=1)

    async def within(state: Order, tx: AsyncConnection) -> None:
        """Do nothing, in the transaction of the saga's own state."""

    async def update(state: Order, tx: AsyncConnection) -> None:
        await tx.execute(UPDATE, {"id": account_of(state.order_id)})

    async def outside(state: Order) -> None:
        """Do nothing; the intent is committed before and the end after."""

    step = {"tx": within, "update": update, "outside": outside}[kind]
    for number in range(STEPS):
        saga.step(name=f"step-{number}")(step)
    return saga


def saga_of_requests(box: Pillarbox) -> Saga[Order]:
    """Return a saga of four requests to a consumer of the box."""
    saga = Saga("fulfilment", state=Order, version=1)

    def act(state: Order) -> Act:
        return Act(state.order_id)

    for number in range(STEPS):
        saga.request(name=f"step-{number}", replies=(Acted,), timeout=WITHIN)(act)

    @box.on(Act, name="participant")
    async def participant(asked: Act, tx: AsyncConnection) -> Acted:
        return Acted(asked.order_id)

    return saga


class Open(Observer):
    """The sagas under way."""

    def __init__(self) -> None:
        self.times = Times()
        self._since: dict[str, float] = {}
        self._fewer = asyncio.Event()

    def notice(self, event: Event, /) -> None:
        if isinstance(event, SagaEnded):
            self.times.since(self._since.pop(event.saga_id))
            self._fewer.set()

    def add(self, saga_id: str) -> None:
        """Note that a saga is about to be started."""
        self._since[saga_id] = time.perf_counter()

    async def until(self, at_most: int) -> None:
        """Wait until no more are open."""
        while len(self._since) > at_most:
            self._fewer.clear()
            await self._fewer.wait()


async def run_all(box: Pillarbox, saga: Saga[Order], *, count: int, at_once: int) -> Times:
    """Start sagas, so many at once, and wait until all have ended."""
    under_way = Open()
    box.observe(under_way)
    batch = min(BATCH, at_once)
    for numbers in chunks(count, batch):
        await under_way.until(at_once - len(numbers))
        states = {f"s-{number}": Order(**state_of(number)) for number in numbers}
        for saga_id in states:
            under_way.add(saga_id)
        async with box.transaction() as tx:
            await box.sagas.start_all(saga, states, tx=tx)
    await under_way.until(0)
    return under_way.times


async def main() -> None:
    """Run all sagas."""
    todo = task()
    box = Pillarbox("bench", store=todo.url)
    kind = todo.options["kind"]
    saga = saga_of_requests(box) if kind == "request" else saga_of_steps(kind)
    box.include(saga)
    await box.migrate()
    if kind == "update":
        async with box.transaction() as tx:
            for statement in CREATE_ACCOUNTS:
                await tx.execute(text(statement))
    async with box.running():
        stopwatch = Stopwatch(todo)
        stopwatch.start()
        times = await run_all(box, saga, count=todo.count, at_once=todo.options.get("at_once", 1))
        async with box.transaction() as tx:
            completed = (await tx.execute(COMPLETED)).scalar_one()
        stopwatch.report(completed, p50_ms=times.p50_ms)
    await box.store.close()


if __name__ == "__main__":
    asyncio.run(main())
