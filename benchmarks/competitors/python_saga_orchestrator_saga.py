"""python-saga-orchestrator: a saga of four steps, or of four that send a command and await an event.

A step is two transactions, before it and after it: each reads the saga's row FOR UPDATE, with all of its history; the
first writes a deadline, the second the whole context and a row of history. A command goes through its outbox to a
participant that replies at once into its inbox.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from loguru import logger
from pydantic import BaseModel
from saga_orchestrator import (
    BaseStep,
    InboxMessageMixin,
    InputContext,
    OutboxDispatcher,
    OutboxEvent,
    OutboxMessageMixin,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStateMixin,
    SagaStepHistoryMixin,
    StepAwaitEvent,
)
from sqlalchemy import ForeignKey, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from benchmarks.measure import Stopwatch, Task, task
from benchmarks.sagas import IDLE_S, STEPS, in_lanes, one_by_one, state_of

SAGA = "fulfilment"
REPLY = "done"


class Base(DeclarativeBase):
    """Its tables."""


class History(Base, SagaStepHistoryMixin):
    """What became of a step."""

    __tablename__ = "saga_history"

    saga_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sagas.id", ondelete="CASCADE"), index=True)


class State(Base, SagaStateMixin):
    """A saga."""

    __tablename__ = "sagas"

    step_history: Mapped[list[History]] = relationship("History", cascade="all, delete-orphan", order_by="History.id")


class Outbox(Base, OutboxMessageMixin):
    """A command on its way."""

    __tablename__ = "saga_outbox"


class Inbox(Base, InboxMessageMixin):
    """A reply that has come."""

    __tablename__ = "saga_inbox"


class Order(BaseModel):
    """What goes into a step, and comes out of it."""

    order_id: str
    total_cents: int


class Local(BaseStep[Order, Order]):
    """A step that does nothing."""

    input_model = output_model = Order

    async def execute(self, inp: Order, event_type: str | None = None, event_payload: Any = None) -> Order:
        """Do nothing."""
        return inp


class Request(BaseStep[Order, Order]):
    """A step that sends a command and waits for the reply."""

    input_model = output_model = Order

    def __init__(self, number: int) -> None:
        self._number = number

    async def execute(
        self, inp: Order, event_type: str | None = None, event_payload: Any = None
    ) -> Order | StepAwaitEvent:
        """Send at the first call; the second one brings the reply."""
        if event_type == REPLY:
            return inp
        command = {"order_id": inp.order_id, "id": f"{inp.order_id}-{self._number}"}
        return StepAwaitEvent((REPLY,), outbox_events=(OutboxEvent("participant", command, key=inp.order_id),))


class Participant:
    """Where commands go: it answers at once, without a broker in between, which favours this peer."""

    def __init__(self, orchestrator: SagaOrchestrator[State, History]) -> None:
        self._orchestrator = orchestrator

    async def publish(
        self, *, topic: str, payload: dict[str, Any], key: str | None = None, headers: dict[str, Any] | None = None
    ) -> None:
        """Put the reply into the inbox."""
        event = {"event_id": payload["id"], "event_type": REPLY, "payload": {}}
        await self._orchestrator.ingest_event(event=event, aggregation_id=payload["order_id"])


def definition(step: Callable[[int], BaseStep[Order, Order]], completed: Callable[[], None]) -> SagaDefinition:
    """Return a saga of four steps that tells when it has completed."""

    def given(ctx: InputContext) -> Order:
        return Order.model_validate(ctx.initial_data)

    builder = SagaBuilder()
    for number in range(STEPS):
        builder.add_step(step=step(number), input_map=given)
    builder.on_completed(lambda _context: completed())
    return builder.build()


async def count_completed(engine: AsyncEngine) -> int:
    """Count the sagas that lie in its table as completed."""
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT count(*) FROM sagas WHERE status = 'COMPLETED'"))
        return int(found.scalar_one())


async def run_requests(todo: Task, sessions: Any, orchestrator: SagaOrchestrator[State, History]) -> None:
    """Start sagas and carry their commands and replies, in as many lanes, until all have completed."""
    dispatcher = OutboxDispatcher(session_maker=sessions, publisher=Participant(orchestrator), model_class=Outbox)
    left = todo.count

    def completed() -> None:
        nonlocal left
        left -= 1

    orchestrator.register(SAGA, definition(Request, completed))
    lanes, batch, numbers = int(todo.options["at_once"]), int(todo.options["batch"]), iter(range(todo.count))

    async def lane(_number: int) -> None:
        while left:
            state = next((state_of(number) for number in numbers), None)
            if state is not None:
                await orchestrator.start(saga_name=SAGA, initial_data=state, aggregation_id=str(state["order_id"]))
            carried = await dispatcher.run_once(limit=batch) + await orchestrator.run_inbox_due(limit=batch)
            if state is None and not carried:
                await asyncio.sleep(IDLE_S)

    await in_lanes(lanes, lane)


async def main() -> None:
    """Run all sagas."""
    logger.remove()
    todo = task()
    at_once = int(todo.options.get("at_once", 1))
    url = todo.url.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, pool_size=2 * at_once)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    orchestrator = SagaOrchestrator[State, History](
        model_class=State,
        history_model_class=History,
        session_maker=sessions,
        inbox_model_class=Inbox,
        outbox_model_class=Outbox,
    )

    async def run(number: int) -> None:
        state = state_of(number)
        await orchestrator.start(saga_name=SAGA, initial_data=state, aggregation_id=str(state["order_id"]))

    stopwatch = Stopwatch(todo)
    stopwatch.start()
    if todo.options.get("kind") == "requests":
        await run_requests(todo, sessions, orchestrator)
        stopwatch.report(await count_completed(engine))
    else:
        orchestrator.register(SAGA, definition(lambda _number: Local(), lambda: None))
        times = await one_by_one(todo.count, at_once=at_once, run=run)
        stopwatch.report(await count_completed(engine), p50_ms=times.p50_ms)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
