"""Sagas that branch: steps side by side of each kind, a child with steps of its own, a pivot and what follows it."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from zlib import crc32

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine  # steps ask for them

from pillarbox import Pillarbox, Retry, Saga, SagaContext, StepFailed, command, event
from pillarbox.saga.journal import ActState, Direction, Journal, decode_journal
from tests.fault.recording import Mark, NoticeLog
from tests.fault.story import stay_open

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.fault.story import Setting
    from tests.fault.workers import Seat

AGAIN = Retry(attempts=60, immediate=0, first=timedelta(milliseconds=10), factor=1)
"""Many, since each kill of a call is an attempt."""
WITHIN = timedelta(seconds=2)
LATE_MS = 2_200
BEFORE_PIVOT = ("order", "card", "voucher", "label", "truck", "road", "mail", "stamp", "pivot")
SIDE_BY_SIDE = ("card", "voucher", "mail", "stamp", "stamp")
LAST = "news"
STAGES = (("order",), ("card", "voucher"), ("label", "truck", "road", "mail", "stamp"), ("pivot",), (LAST,))
CHILD, OF_CHILD = "delivery", ("label", "truck", "road")

metadata = MetaData()
books = Table(
    "branching_books",
    metadata,
    Column("entry", Integer, primary_key=True, autoincrement=True),
    Column("saga_id", String(40), nullable=False),
    Column("step", String(20), nullable=False),
    Column("direction", String(5), nullable=False),
    Column(
        "key", String(200), unique=True
    ),  # of a call: its other side honours keys; nothing else is made to come once
    sqlite_autoincrement=True,
)


@dataclass
class Order:
    """The state."""

    order_id: str
    card: str = ""
    voucher: str = ""
    stamp: str = ""


@dataclass
class Delivery:
    """The state of the child."""

    order_id: str
    truck: str = ""


@command("branching.do", queue="branching", key="line")
@dataclass(frozen=True)
class Do:
    line: str  # of the order: what is asked side by side is answered in any order
    order_id: str
    step: str


@command("branching.undo", queue="branching", key="line")
@dataclass(frozen=True)
class Undo:
    line: str
    order_id: str
    step: str


@event("branching.done", key="order_id")
@dataclass(frozen=True)
class Done:
    order_id: str
    step: str


@event("branching.refused", key="order_id")
@dataclass(frozen=True)
class Refused:
    order_id: str


@event("branching.undone", key="order_id")
@dataclass(frozen=True)
class Undone:
    order_id: str


@dataclass(frozen=True)
class Fate:
    """What goes wrong with one saga: always the same, whoever runs it."""

    at: str | None
    is_late: bool
    undo_fails: int

    @classmethod
    def of(cls, order_id: str) -> Fate:
        number = crc32(order_id.encode())
        ways = (*(None for _ in BEFORE_PIVOT), *BEFORE_PIVOT, *SIDE_BY_SIDE)
        at = ways[number % len(ways)]
        return cls(at=at, is_late=bool(number // len(ways) % 2), undo_fails=number // 100 % 3)

    def fails(self, ctx: SagaContext) -> None:
        if ctx.direction is Direction.UNDO and ctx.attempt <= self.undo_fails:
            raise ConnectionError("undoing failed")
        if ctx.step == LAST and ctx.attempt <= self.undo_fails:
            raise ConnectionError("what follows the pivot failed")


def entry(order_id: str, step: str, direction: Direction, *, key: str | None = None) -> dict[str, str | None]:
    return {"saga_id": order_id, "step": step, "direction": direction.value, "key": key}


@dataclass(frozen=True)
class Steps:
    """Adds steps of each kind to sagas, each with what undoes it."""

    engine: AsyncEngine
    mark: Mark

    def local(self, saga: Saga[Order] | Saga[Delivery], name: str, *, parallel: str | None = None) -> None:
        async def write(state: Order | Delivery, tx: AsyncConnection, ctx: SagaContext) -> None:
            with self.mark.busy():
                fate = Fate.of(state.order_id)
                fate.fails(ctx)
                await tx.execute(insert(books), entry(state.order_id, ctx.step, ctx.direction))
                await stay_open(2)
                if ctx.direction is Direction.DO and fate.at == ctx.step:
                    raise StepFailed("refused")

        step = saga.step(name=name, retry=AGAIN, parallel=parallel, pivot=name == "pivot")(write)
        if name not in ("pivot", LAST):
            step.compensate(retry=AGAIN)(write)

    def call(self, saga: Saga[Order], name: str, *, parallel: str) -> None:
        async def call(state: Order, ctx: SagaContext) -> None:
            with self.mark.busy():
                fate = Fate.of(state.order_id)
                fate.fails(ctx)
                is_fated = ctx.direction is Direction.DO and fate.at == ctx.step
                if is_fated and not fate.is_late:
                    raise StepFailed("refused")
                row = entry(state.order_id, ctx.step, ctx.direction, key=ctx.idempotency_key())
                try:
                    async with self.engine.begin() as other_side:
                        await other_side.execute(insert(books), row)
                except IntegrityError:
                    pass
                await stay_open(5)
                if is_fated:
                    raise TimeoutError("it happened, and nobody heard")
                if ctx.direction is Direction.DO:
                    state.stamp = ctx.step

        step = saga.step(name=name, retry=Retry(attempts=4, immediate=3), timeout=WITHIN, parallel=parallel)(call)
        step.compensate(retry=AGAIN, timeout=WITHIN)(call)

    def request(self, saga: Saga[Order] | Saga[Delivery], name: str, *, parallel: str | None = None) -> None:
        def ask(state: Order | Delivery) -> Do:
            return Do(f"{state.order_id} {name}", state.order_id, name)

        def refused(state: Order | Delivery, reply: Refused) -> None:
            raise StepFailed("refused")

        def done(state: Order | Delivery, reply: Done) -> None:
            setattr(state, name, reply.step)

        def undo(state: Order | Delivery) -> Undo:
            return Undo(f"{state.order_id} {name}", state.order_id, name)

        again, within = Retry(attempts=1), 5 * WITHIN
        if name == "voucher":  # what comes late comes more than once
            again, within = Retry(attempts=6, immediate=5), WITHIN
        step = saga.request(name=name, replies=(Done, Refused), timeout=within, retry=again, parallel=parallel)(ask)
        step.on(Refused)(refused)
        step.on(Done)(done)
        step.compensate(replies=(Undone,), retry=AGAIN, timeout=3 * WITHIN)(undo)


def declare(box: Pillarbox, mark: Mark) -> Saga[Order]:
    """Include the sagas in ``box``, and whom they ask; return the parents'."""
    steps = Steps(box.store.engine, mark)
    delivery, saga = Saga(CHILD, state=Delivery), Saga("orders", state=Order)
    steps.local(delivery, "label")
    steps.request(delivery, "truck")
    steps.local(delivery, "road")
    steps.local(saga, "order")
    steps.request(saga, "card", parallel="paying")
    steps.request(saga, "voucher", parallel="paying")

    @saga.child(delivery, name=CHILD, parallel="sending")
    def deliver(state: Order) -> Delivery:
        return Delivery(state.order_id)

    steps.local(saga, "mail", parallel="sending")
    steps.call(saga, "stamp", parallel="sending")
    steps.local(saga, "pivot")
    steps.local(saga, LAST)
    box.include(saga)
    box.include(delivery)

    @box.on(Do, Undo, name="others")
    async def others(wanted: Do | Undo, tx: AsyncConnection) -> Done | Refused | Undone | None:
        with mark.busy():
            fate = Fate.of(wanted.order_id)
            if isinstance(wanted, Undo):
                await tx.execute(insert(books), entry(wanted.order_id, wanted.step, Direction.UNDO))
                return Undone(wanted.order_id)
            if fate.at == wanted.step and not fate.is_late:
                return Refused(wanted.order_id)
            await tx.execute(insert(books), entry(wanted.order_id, wanted.step, Direction.DO))
            if fate.at == wanted.step and wanted.step != "voucher":
                return None
            await stay_open(LATE_MS if fate.at == wanted.step else 2)
            return Done(wanted.order_id, wanted.step)

    return saga


async def drive(me: Seat, setting: Setting) -> None:
    """Run sagas and those whom they ask until killed."""
    box = setting.box()
    box.observe(NoticeLog(me.notices))
    declare(box, Mark(me.mark))
    async with box.running():
        await asyncio.Event().wait()


async def check_books(box: Pillarbox, ids: Sequence[str]) -> Counter[str]:
    """Compare how each saga and its child ended with what stands in the books; return how many ended how."""
    async with box.transaction() as tx:
        columns = books.c
        rows = await tx.execute(select(columns.saga_id, columns.step, columns.direction).order_by(columns.entry))
    effects: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for saga_id, step, direction in rows:
        effects[saga_id].append((step, direction))
    children = {one.saga_id: one for one in await box.sagas.list(CHILD, limit=2 * len(ids))}
    ends = Counter[str]()
    for saga_id in ids:
        details = await box.sagas.get(saga_id, saga="orders")
        journals = {"": decode_journal(details.journal)}
        if (child := children.get(f"{saga_id}.orders.{CHILD}")) is not None:
            journals[CHILD] = decode_journal((await box.sagas.get(child.saga_id)).journal)
        _check_one(effects[saga_id], journals, f"{saga_id} {Fate.of(saga_id)} {effects[saga_id]} {journals}")
        ends[details.summary.status] += 1
    return ends


def _check_one(effects: Sequence[tuple[str, str]], journals: Mapping[str, Journal], story: str) -> None:
    assert max(Counter(effects).values(), default=1) == 1, story
    parent, child = journals[""], journals.get(CHILD)
    done = [step for step, direction in effects if direction == "do"]
    undone = [step for step, direction in effects if direction == "undo"]
    if parent.status == "completed":
        assert child is not None, story
        assert child.status == "completed", story
        assert not undone, story
        assert sorted(done) == sorted(step for stage in STAGES for step in stage), story
        assert sorted(done, key=_stage_of) == done, story
        assert [step for step in done if step in OF_CHILD] == list(OF_CHILD), story
    else:
        assert parent.status == "compensated", story
        assert child is None or child.status == "compensated", story
        assert set(done) <= set(undone), story
        assert all(effects.index((step, "do")) < effects.index((step, "undo")) for step in done), story
        assert [step for step in undone if step not in OF_CHILD] == _to_undo(parent), story
        assert [step for step in undone if step in OF_CHILD] == ([] if child is None else _to_undo(child)), story


def _stage_of(step: str) -> int:
    return next(place for place, stage in enumerate(STAGES) if step in stage)


def _to_undo(journal: Journal) -> list[str]:
    """Return what was done or may have been, what ended last first."""
    ended = [(one.place, step) for step, one in journal.do.items() if one.state in (ActState.DONE, ActState.UNKNOWN)]
    return [step for _, step in sorted(ended, reverse=True) if step != CHILD]
