"""Sagas whose workers are killed: what their steps do, what goes wrong with them, and what must stand in the books."""

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
from pillarbox.saga.journal import Direction
from tests.fault.recording import Mark, NoticeLog
from tests.fault.story import stay_open

if TYPE_CHECKING:
    from tests.fault.story import Setting
    from tests.fault.workers import Seat

STEPS = ("order", "payment", "stock", "parcel", "mail")
AGAIN = Retry(attempts=40, immediate=0, first=timedelta(milliseconds=10), factor=1)
"""Many, since each kill of a call is an attempt."""
WITHIN = timedelta(seconds=2)

metadata = MetaData()
books = Table(
    "saga_books",
    metadata,
    Column("entry", Integer, primary_key=True, autoincrement=True),
    Column("saga_id", String(40), nullable=False),
    Column("step", String(20), nullable=False),
    Column("direction", String(5), nullable=False),
    Column("once", String(200), unique=True),  # of a call: who is called honours keys; nothing else is kept from twice
)


@dataclass
class Parcel:
    """The state."""

    order_id: str


@command("books.reserve", queue="books", key="order_id")
@dataclass(frozen=True)
class Reserve:
    order_id: str


@command("books.release", queue="books", key="order_id")
@dataclass(frozen=True)
class Release:
    order_id: str


@event("books.reserved", key="order_id")
@dataclass(frozen=True)
class Reserved:
    order_id: str


@event("books.rejected", key="order_id")
@dataclass(frozen=True)
class Rejected:
    order_id: str


@event("books.released", key="order_id")
@dataclass(frozen=True)
class Released:
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
        at = (None, None, *STEPS)[number % 7]
        return cls(at=at, is_late=bool(number // 7 % 2), undo_fails=number // 14 % 3)

    def fails(self, ctx: SagaContext) -> None:
        if ctx.direction is Direction.UNDO and ctx.attempt <= self.undo_fails:
            raise ConnectionError("undoing failed")


def entry(order_id: str, step: str, direction: str, *, once: str | None = None) -> dict[str, str | None]:
    return {"saga_id": order_id, "step": step, "direction": direction, "once": once}


def make_saga(engine: AsyncEngine, mark: Mark) -> Saga[Parcel]:
    """Two local steps around two calls around a request."""
    saga = Saga("parcels", state=Parcel)

    async def write(state: Parcel, tx: AsyncConnection, ctx: SagaContext) -> None:
        with mark.busy():
            fate = Fate.of(state.order_id)
            fate.fails(ctx)
            await tx.execute(insert(books), entry(state.order_id, ctx.step, ctx.direction.value))
            await stay_open(2)
            if ctx.direction is Direction.DO and fate.at == ctx.step:
                raise StepFailed("refused")

    async def call(state: Parcel, ctx: SagaContext) -> None:
        """Call somebody who honours keys: the second time is no effect."""
        with mark.busy():
            fate = Fate.of(state.order_id)
            fate.fails(ctx)
            is_fated = ctx.direction is Direction.DO and fate.at == ctx.step
            if is_fated and not fate.is_late:
                raise StepFailed("refused")
            try:
                async with engine.begin() as other_side:
                    row = entry(state.order_id, ctx.step, ctx.direction.value, once=ctx.idempotency_key())
                    await other_side.execute(insert(books), row)
            except IntegrityError:
                pass
            await stay_open(5)
            if is_fated:
                raise TimeoutError("it happened, and nobody heard")

    order = saga.step(name="order", retry=AGAIN)(write)
    order.compensate(retry=AGAIN)(write)
    payment = saga.step(name="payment", retry=Retry(attempts=4, immediate=3), timeout=WITHIN)(call)
    payment.compensate(retry=AGAIN, timeout=WITHIN)(call)

    @saga.request(replies=(Reserved, Rejected), timeout=3 * WITHIN)
    def stock(state: Parcel) -> Reserve:
        return Reserve(state.order_id)

    @stock.on(Rejected)
    def rejected(state: Parcel, reply: Rejected) -> None:
        raise StepFailed("none left")

    @stock.compensate(replies=(Released,), retry=AGAIN, timeout=WITHIN)
    def release(state: Parcel) -> Release:
        return Release(state.order_id)

    parcel = saga.step(name="parcel", retry=Retry(attempts=4, immediate=3), timeout=WITHIN)(call)
    parcel.compensate(retry=AGAIN, timeout=WITHIN)(call)
    mail = saga.step(name="mail", retry=AGAIN)(write)
    mail.compensate(retry=AGAIN)(write)
    return saga


def declare(box: Pillarbox, mark: Mark) -> Saga[Parcel]:
    """Include the saga in ``box``, and its participant."""
    saga = make_saga(box.store.engine, mark)
    box.include(saga)

    @box.on(Reserve, Release, name="stock")
    async def stock(wanted: Reserve | Release, tx: AsyncConnection) -> Reserved | Rejected | Released | None:
        with mark.busy():
            fate = Fate.of(wanted.order_id)
            is_undo = isinstance(wanted, Release)
            if not is_undo and fate.at == "stock" and not fate.is_late:
                return Rejected(wanted.order_id)
            direction = Direction.UNDO if is_undo else Direction.DO
            await tx.execute(insert(books), entry(wanted.order_id, "stock", direction.value))
            if is_undo:
                return Released(wanted.order_id)
            return None if fate.at == "stock" else Reserved(wanted.order_id)

    return saga


async def drive(me: Seat, setting: Setting) -> None:
    """Run sagas and their participant until killed."""
    box = setting.box()
    box.observe(NoticeLog(me.notices))
    declare(box, Mark(me.mark))
    async with box.running():
        await asyncio.Event().wait()


async def check_books(box: Pillarbox, statuses: dict[str, str]) -> Counter[str]:
    """Compare how each saga ended with what stands in the books; return how many ended how."""
    async with box.transaction() as tx:
        columns = books.c
        rows = (
            await tx.execute(select(columns.saga_id, columns.step, columns.direction).order_by(columns.entry))
        ).all()
    by_saga: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for saga_id, step, direction in rows:
        by_saga[saga_id].append((step, direction))
    for saga_id, status in statuses.items():
        fate, effects = Fate.of(saga_id), by_saga[saga_id]
        done = [step for step, direction in effects if direction == "do"]
        undone = [step for step, direction in effects if direction == "undo"]
        story = f"{saga_id} {status} {fate} {effects}"
        assert len(set(effects)) == len(effects), story
        if status == "completed":
            assert fate.at is None, story
            assert done == list(STEPS), story
            assert not undone, story
        else:  # without a fate too: a kill may have taken longer than the stock was waited for
            assert status == "compensated", story
            assert set(done) <= set(undone), story
            assert [direction for _, direction in effects] == ["do"] * len(done) + ["undo"] * len(undone), story
            assert undone == [step for step in reversed(STEPS) if step in undone], story
    return Counter(statuses.values())
