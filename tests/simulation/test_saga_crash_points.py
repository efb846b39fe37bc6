"""A saga of five steps whose process ends at any statement, commit or call (RELIABILITY G9, I14)."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection  # steps ask for it

from pillarbox import Context, Retry, Saga, SagaContext, StepFailed, command, event
from pillarbox.app.orchestrating import replies_address
from pillarbox.app.system_clock import SystemClock
from pillarbox.channel.wakeup import Wakeup
from pillarbox.consumer import Providers
from pillarbox.errors import StoreUnavailableError, TransientError
from pillarbox.idempotency.outside_calls import OutsideCalls
from pillarbox.message import Limits, Message, new_message_id
from pillarbox.message.return_address import answering, return_address_of
from pillarbox.observe import Observers
from pillarbox.outbox import Outbox
from pillarbox.relational.saga_tables import saga_instances
from pillarbox.relational.tables import outbox as outbox_table
from pillarbox.retry import Classification
from pillarbox.saga import machine
from pillarbox.saga.catalogue import Catalogue
from pillarbox.saga.invoking import Invoker
from pillarbox.saga.journal import Direction, SagaStatus, decode_journal
from pillarbox.saga.orchestrator import SagaOrchestrator, Workplace
from pillarbox.saga.replies import Replies
from pillarbox.saga.resolve import resolve_sagas
from pillarbox.saga.rules import Rules
from pillarbox.saga.sagas import Sagas
from pillarbox.saga.state import StateCodec
from pillarbox.serialization import JsonCodec
from pillarbox.testing.waiting import wait_until
from tests import effort
from tests.simulation.fuse import Fuse
from tests.simulation.stepped import COMMITTED, SteppedStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from pillarbox.relational import RelationalStore
    from tests.simulation.stepped import Step

SERVICE, SAGA_ID = "shop", "o-1"
BRIEF = timedelta(milliseconds=40)
AT_ONCE = Retry(attempts=3, immediate=0, first=timedelta(0))
UNDOING = Retry(attempts=5, immediate=0, first=timedelta(0))  # two failures, and a crash
STEPS = ("order", "payment", "stock", "parcel", "mail")
REQUESTS = ("stock",)

books = MetaData()
ledger = Table(
    "saga_test_ledger",
    books,
    Column("entry", Integer, primary_key=True, autoincrement=True),
    Column("step", String(20)),
    Column("direction", String(10)),
)


class Crash(BaseException):  # nothing may catch it
    """The process ends here."""


@dataclass
class Order:
    order_id: str
    done: list[str] = field(default_factory=list)


@command("stock.reserve", queue="stock", key="order_id")
@dataclass
class Reserve:
    order_id: str


@command("stock.release", queue="stock", key="order_id")
@dataclass
class Release:
    order_id: str


@event("stock.reserved", key="order_id")
@dataclass
class Reserved:
    order_id: str


@event("stock.rejected", key="order_id")
@dataclass
class Rejected:
    order_id: str


@event("stock.released", key="order_id")
@dataclass
class Released:
    order_id: str


@dataclass(frozen=True)
class Trouble:
    """What goes wrong: at which step and how, and how often undoing fails."""

    at: str | None = None
    how: str = "refused"
    undo_fails: int = 0


@dataclass
class World:
    """The other sides, each honouring keys; what they did stands in their books in order."""

    trouble: Trouble
    step: Step
    outside: list[tuple[str, Direction]] = field(default_factory=list)
    undo_failures: Counter[str] = field(default_factory=Counter[str])

    async def call(self, ctx: SagaContext) -> None:
        """Call the other side of a step: on the way there and back the process may end."""
        await self.step(f"{ctx.direction} {ctx.step} leaves")
        self._fail_undoing(ctx)
        if self.trouble.at == ctx.step and ctx.direction is Direction.DO and self.trouble.how == "refused":
            raise StepFailed("refused")
        if (ctx.step, ctx.direction) not in self.outside:
            self.outside.append((ctx.step, ctx.direction))
        await self.step(f"the answer to {ctx.direction} {ctx.step} is on its way")
        if self.trouble.at == ctx.step and ctx.direction is Direction.DO:
            raise TimeoutError("it happened, and nobody heard")

    async def write(self, ctx: SagaContext, tx: AsyncConnection) -> None:
        """Write into the saga's own database."""
        self._fail_undoing(ctx)
        await tx.execute(ledger.insert().values(step=ctx.step, direction=ctx.direction.value))
        if self.trouble.at == ctx.step and ctx.direction is Direction.DO:
            raise StepFailed("refused") if self.trouble.how == "refused" else TimeoutError("too slow")

    def _fail_undoing(self, ctx: SagaContext) -> None:
        if ctx.direction is Direction.UNDO and self.undo_failures[ctx.step] < self.trouble.undo_fails:
            self.undo_failures[ctx.step] += 1
            raise ConnectionError("undoing failed")


def saga_of(world: World) -> Saga[Order]:
    """Two local steps around two calls around a request, each with what undoes it."""
    saga = Saga("fulfilment", state=Order)

    @saga.step(retry=AT_ONCE)
    async def order(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        state.done.append("order")
        await world.write(ctx, tx)

    @order.compensate(retry=UNDOING)
    async def cancel_order(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        await world.write(ctx, tx)

    @saga.step(retry=AT_ONCE, timeout=BRIEF)
    async def payment(state: Order, ctx: SagaContext) -> None:
        state.done.append("payment")
        await world.call(ctx)

    @payment.compensate(retry=UNDOING, timeout=BRIEF)
    async def refund(state: Order, ctx: SagaContext) -> None:
        await world.call(ctx)

    @saga.request(replies=(Reserved, Rejected), timeout=BRIEF * 5)
    def stock(state: Order) -> Reserve:
        return Reserve(state.order_id)

    @stock.on(Rejected)
    def rejected(state: Order, reply: Rejected) -> None:
        raise StepFailed("none left")

    @stock.compensate(replies=(Released,), retry=UNDOING, timeout=BRIEF * 5)
    def release(state: Order) -> Release:
        return Release(state.order_id)

    @saga.step(retry=AT_ONCE, timeout=BRIEF)
    async def parcel(state: Order, ctx: SagaContext) -> None:
        state.done.append("parcel")
        await world.call(ctx)

    @parcel.compensate(retry=UNDOING, timeout=BRIEF)
    async def call_back(state: Order, ctx: SagaContext) -> None:
        await world.call(ctx)

    @saga.step(retry=AT_ONCE)
    async def mail(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        state.done.append("mail")
        await world.write(ctx, tx)

    @mail.compensate(retry=UNDOING)
    async def excuse(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        await world.write(ctx, tx)

    return saga


class Process:
    """One process of the service, on its own way to the database."""

    def __init__(self, store: RelationalStore, world: World) -> None:
        self.store, self.world = store, world
        self.saga = saga_of(world)
        codec, clock = JsonCodec(), SystemClock()
        self.outbox = Outbox(
            service=SERVICE, store=store.outbox, codec=codec, limits=Limits(), new_id=new_message_id, now=clock.now
        )
        self.catalogue = Catalogue(resolve_sagas([self.saga], service=SERVICE, provided={}))
        self.states = StateCodec(codec, Limits())
        self.rules = Rules(
            service=SERVICE,
            replies=replies_address(SERVICE),
            invoker=Invoker(Providers()),
            states=self.states,
            outbox=self.outbox,
            locks=store.saga_locks,
            calls=OutsideCalls(
                store.calls, source=store, codec=codec, clock=clock, new_token=new_message_id, hold=BRIEF
            ),
            classification=Classification(),
            redact=str,
            translate=store.translate,
            now=clock.now,
            dice=lambda: 0.5,
            new_token=new_message_id,
        )
        self.orchestrator = SagaOrchestrator(
            self.catalogue,
            self.rules,
            Workplace(store=store.sagas, source=store, clock=clock, observer=Observers()),
            wakeup=Wakeup(),
            on_published=lambda: None,
        )
        self.replies = Replies(self.catalogue, self.rules, store.sagas)
        self.participant: list[Direction] = []

    async def start(self) -> None:
        """Start the saga."""
        sagas = Sagas(
            SERVICE,
            self.store,
            acts=self.store.operators.acts,
            source=self.store,
            states=self.states,
            runs=lambda saga: True,
        )
        async with self.store.begin() as tx:
            await sagas.start(self.saga, Order(SAGA_ID), saga_id=SAGA_ID, tx=tx.connection)

    async def work(self, within: timedelta) -> SagaStatus | None:
        """Drive the saga until it stands, or the process ends."""
        status: SagaStatus | None = None

        async def stands() -> bool:
            nonlocal status
            with suppress(TransientError):
                await self.orchestrator.turn(group)
            await asyncio.sleep(0)
            with suppress(TransientError):
                await self._participate()
                status = await self.status()
            return status not in (None, SagaStatus.RUNNING, SagaStatus.COMPENSATING)

        async with asyncio.TaskGroup() as group:
            await wait_until(stands, within=within)
        return status

    async def status(self) -> SagaStatus | None:
        async with self.store.begin() as tx:
            found = (await tx.connection.execute(select(saga_instances.c.state))).scalar_one_or_none()
        return None if found is None else SagaStatus(found)

    async def _participate(self) -> None:
        """Do what the commands in the outbox ask for, once each, and answer; a late do after its undo is refused."""
        async with self.store.begin() as tx:
            columns = outbox_table.c
            rows = (
                await tx.connection.execute(
                    select(columns.position, columns.event_type, columns.headers, columns.payload).order_by(
                        columns.position
                    )
                )
            ).all()
            answers: list[tuple[object, Context]] = []
            for _, kind, headers, payload in rows:
                message = _message(kind, headers, payload)
                if (reply := self._done(kind)) is not None:
                    address = return_address_of(message)
                    assert address is not None
                    answer = answering(message, address)
                    answers.append((reply, Context(answer, consumer="", attempt=1, outbox=self.outbox)))
            if answers:
                payloads, contexts = [list(part) for part in zip(*answers, strict=True)]
                await self.replies.receive(payloads, contexts, tx.connection)
            if rows:
                await tx.connection.execute(delete(outbox_table))

    def _done(self, kind: str) -> object | None:
        """Return the answer of the stock; ``None`` if nobody hears it."""
        trouble, books = self.world.trouble, self.world.outside
        if kind == "stock.release":
            if ("stock", Direction.UNDO) not in books:
                books.append(("stock", Direction.UNDO))
            return Released(SAGA_ID)
        if trouble.at == "stock" and trouble.how == "refused":
            return Rejected(SAGA_ID)
        if ("stock", Direction.DO) not in books and ("stock", Direction.UNDO) not in books:
            books.append(("stock", Direction.DO))
        return None if trouble.at == "stock" else Reserved(SAGA_ID)


def _message(kind: str, headers: str, payload: bytes) -> Message:
    import json

    return Message(
        id=new_message_id(),
        type=kind,
        destination="queue:stock",
        key=SAGA_ID,
        content_type="application/json",
        headers=json.loads(headers),
        body=bytes(payload),
    )


TROUBLES = [
    Trouble(),
    *(Trouble(at=step, how=how) for step, how in product(STEPS, ("refused", "too slow"))),
    Trouble(at="mail", undo_fails=2),
    Trouble(at="mail", undo_fails=100),
]


@pytest.fixture
def short_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a call that did not come back be made again as soon as its timeout is over."""
    monkeypatch.setattr(machine, "MARGIN", timedelta(0))


ON_SERVERS = effort.of(TROUBLES, [Trouble(), Trouble(at="parcel", how="too slow"), Trouble(at="mail", undo_fails=2)])


@pytest.mark.usefixtures("short_claims")
@pytest.mark.parametrize(
    ("store", "trouble"),
    [
        *(("sqlite", trouble) for trouble in TROUBLES),
        *((server, trouble) for server in ("asyncpg", "mariadb") for trouble in ON_SERVERS),
    ],
    indirect=["store"],
    ids=str,
)
async def test_whatever_the_crash_a_saga_ends_and_its_books_are_right(
    store: RelationalStore, trouble: Trouble, rng: Random
) -> None:
    stride = effort.of(1, 13 if store.traits.single_writer else 41)
    at = rng.randrange(stride)
    async with store.begin() as tx:
        await tx.connection.run_sync(books.create_all)
    while True:
        async with store.begin() as tx:
            for table in (saga_instances, outbox_table, ledger):
                await tx.connection.execute(delete(table))
        fuse = Fuse(at, Crash())
        world = World(trouble, fuse.step)
        await Process(store, world).start()
        try:
            await Process(SteppedStore(store, fuse.step), world).work(timedelta(seconds=20))
        except* Crash:
            pass
        world.step = _no_step
        survivor = Process(store, world)
        status = await survivor.work(timedelta(seconds=20))
        try:
            await check(store, world, status)
        except AssertionError as error:
            raise AssertionError(f"{trouble}, crash at step {at}, before {fuse.blown_before}: {error}") from error
        if fuse.steps <= at:
            return
        at += stride


@pytest.mark.usefixtures("short_claims")
@pytest.mark.parametrize("store", ["sqlite", "asyncpg"], indirect=True)
@pytest.mark.parametrize("which", range(4))
async def test_what_a_call_brought_is_written_once_though_the_commit_s_answer_is_lost(
    store: RelationalStore, which: int
) -> None:
    """The process lives on and has it still in hand; by then the saga may be further."""
    async with store.begin() as tx:
        await tx.connection.run_sync(books.create_all)
    saves, is_save = 0, False

    async def lose(what: str) -> None:
        nonlocal saves, is_save
        if what != COMMITTED:
            is_save = what.startswith("COMMIT") and "UPDATE pillarbox_saga_instances" in what
        elif is_save:
            saves += 1
            if saves == which + 1:
                raise StoreUnavailableError(store="the store", reason="the answer was lost")

    world = World(Trouble(), _no_step)
    await Process(store, world).start()
    await Process(SteppedStore(store, lose), world).work(timedelta(seconds=20))

    async with store.begin() as tx:
        journal = decode_journal((await tx.connection.execute(select(saga_instances.c.journal))).scalar_one())
    assert saves > which
    assert [entry.step for entry in journal.history if entry.what == "done late"] == []


async def _no_step(what: str) -> None:
    """Go on."""


async def check(store: RelationalStore, world: World, status: SagaStatus | None) -> None:
    """Compare the end with the books of everybody."""
    async with store.begin() as tx:
        rows = (await tx.connection.execute(select(ledger.c.step, ledger.c.direction).order_by(ledger.c.entry))).all()
        journal = decode_journal((await tx.connection.execute(select(saga_instances.c.journal))).scalar_one())
    local = [(step, Direction(direction)) for step, direction in rows]
    effects: Sequence[tuple[str, Direction]] = [*local, *world.outside]
    assert all(count == 1 for count in Counter(effects).values()), effects
    done = {step for step, direction in effects if direction is Direction.DO}
    undone = {step for step, direction in effects if direction is Direction.UNDO}
    if world.trouble.at is None:
        assert status is SagaStatus.COMPLETED
        assert done == set(STEPS)
        assert not undone
        return
    expected = SagaStatus.NEEDS_ATTENTION if world.trouble.undo_fails > 2 else SagaStatus.COMPENSATED
    assert status is expected, journal
    if status is SagaStatus.COMPENSATED:
        assert done <= undone, (done, undone)
        order = [step for step, _ in sorted(journal.undo.items(), key=lambda one: one[1].place)]
        assert order == [step for step in reversed(STEPS) if step in journal.undo]
