"""Sagas in a running box: ends, stops and ways out, races, children, parallel steps, versions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from pillarbox import Context, Retry, Saga, SagaContext, StepFailed, command, event
from pillarbox.errors import ConflictError, InvalidSetupError
from pillarbox.observe import MessageDead, MessageHandled, SagaEnded, SagaNeedsAttention, SagaStepFailed
from pillarbox.outbox import Origin
from pillarbox.saga.journal import decode_journal
from pillarbox.transaction import adopt
from tests.integration.boxes import create_tables, make_box, note, note_sync, noted, publish
from tests.integration.conftest import MARIADB, SERVERS
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from pillarbox.saga.store import SagaDetails

pytestmark = pytest.mark.parametrize("store_url", ["sqlite", SERVERS[1], MARIADB], indirect=True)
SOON = Retry(attempts=2, immediate=0, first=timedelta(0))
BRIEF = timedelta(milliseconds=300)


@dataclass
class Order:
    """What most sagas here are about."""

    order_id: str
    notes: list[str] = field(default_factory=list)
    paid: str | None = None
    shipped: str | None = None


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@command("stock.reserve", queue="stock", key="order_id")
@dataclass(frozen=True)
class ReserveStock:
    order_id: str


@command("stock.release", queue="stock", key="order_id")
@dataclass(frozen=True)
class ReleaseStock:
    order_id: str


@command("stock.forget", queue="undoing", key="order_id")
@dataclass(frozen=True)
class ForgetReservation:
    order_id: str


@event("stock.reserved", key="order_id")
@dataclass(frozen=True)
class StockReserved:
    order_id: str


@event("stock.rejected", key="order_id")
@dataclass(frozen=True)
class StockRejected:
    order_id: str
    reason: str


@event("stock.released", key="order_id")
@dataclass(frozen=True)
class StockReleased:
    order_id: str


async def start(box: Pillarbox, saga: Saga[Order], *order_ids: str) -> None:
    async with box.transaction() as tx:
        await box.sagas.start_all(saga, {one: Order(one) for one in order_ids}, tx=tx)


async def until(box: Pillarbox, saga_id: str, *statuses: str, saga: str | None = None) -> SagaDetails:
    """Wait until a saga stands at one of ``statuses``."""

    async def stands() -> SagaDetails | None:
        found = await box.sagas.get(saga_id, saga=saga)
        return found if found.summary.status in statuses else None

    try:
        found = await wait_until(stands, timedelta(seconds=20))
    except AssertionError as error:
        error.add_note((await box.sagas.get(saga_id, saga=saga)).journal)
        raise
    assert found is not None
    return found


def stock(box: Pillarbox, *, reserves: bool = True) -> None:
    """A participant: one consumer that does and undoes, in its transaction."""

    @box.on(ReserveStock, ReleaseStock, name="stock")
    async def handle(
        wanted: ReserveStock | ReleaseStock, tx: AsyncConnection
    ) -> StockReserved | StockRejected | StockReleased:
        if isinstance(wanted, ReleaseStock):
            await note(tx, f"{wanted.order_id} released")
            return StockReleased(wanted.order_id)
        if not reserves:
            return StockRejected(wanted.order_id, "none left")
        await note(tx, f"{wanted.order_id} reserved")
        return StockReserved(wanted.order_id)


async def test_local_outside_and_request_steps_of_every_colour_complete(store_url: str) -> None:
    box, happenings = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step
    async def by_connection(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        await note(tx, f"{state.order_id} connection {ctx.step} {ctx.direction} {ctx.attempt}")
        state.notes.append("a")

    @saga.step
    async def by_session(state: Order, tx: AsyncSession) -> None:
        await note(await tx.connection(), f"{state.order_id} session")
        state.notes.append("b")

    @saga.step
    def by_plain_function(state: Order, tx: Connection) -> None:
        note_sync(tx, f"{state.order_id} plain")
        state.notes.append("c")

    @saga.step
    def in_a_thread(state: Order, ctx: SagaContext) -> Order:
        return Order(state.order_id, [*state.notes, ctx.idempotency_key("x")])

    @saga.request(replies=(StockReserved,))
    def reserve(state: Order) -> ReserveStock:
        return ReserveStock(state.order_id)

    @reserve.on(StockReserved)
    async def reserved(state: Order, reply: StockReserved, tx: AsyncConnection) -> None:
        await note(tx, f"{reply.order_id} heard")
        state.notes.append("e")

    box.include(saga, started_by=OrderPlaced, state_from=lambda placed: Order(placed.order_id))
    stock(box)
    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("o-1"), OrderPlaced("o-1"))
        await wait_until(lambda: len(happenings.of(SagaEnded)) == 1, timedelta(seconds=20))
        found = await box.sagas.get("o-1")

        assert found.summary.status == "completed"
        key = "shop/fulfilment:o-1:in_a_thread:do:x"
        assert msgspec.json.decode(found.state)["notes"] == ["a", "b", "c", key, "e"]
        assert sorted(await noted(box)) == sorted(
            [
                "o-1 connection by_connection do 1",
                "o-1 session",
                "o-1 plain",
                "o-1 reserved",
                "o-1 heard",
            ]
        )
        assert [one.saga_id for one in await box.sagas.list(status="completed", text="in_a_thread")] == ["o-1"]
        assert await box.sagas.list(status="running") == ()


async def test_a_refusal_undoes_what_was_done_backwards_and_nothing_else(store_url: str) -> None:
    box, _ = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step
    async def first(state: Order, tx: AsyncConnection) -> None:
        await note(tx, "first")

    @first.compensate
    async def not_first(state: Order, tx: AsyncConnection) -> None:
        await note(tx, "undo first")

    @saga.step
    async def second(state: Order) -> None:
        state.notes.append("second")

    @second.compensate
    async def not_second(state: Order, tx: AsyncConnection) -> None:
        await note(tx, f"undo {state.notes}")

    @saga.request(replies=(StockReserved, StockRejected))
    def reserve(state: Order) -> ReserveStock:
        return ReserveStock(state.order_id)

    @reserve.on(StockRejected)
    def rejected(state: Order, reply: StockRejected) -> None:
        raise StepFailed(reply.reason)

    @reserve.compensate(replies=(StockReleased,))
    def release(state: Order) -> ReleaseStock:
        return ReleaseStock(state.order_id)

    box.include(saga)
    stock(box, reserves=False)
    async with box.running():
        await create_tables(box)
        await start(box, saga, "o-1")
        found = await until(box, "o-1", "compensated")

        assert await noted(box) == ["first", "undo ['second']", "undo first"]
        assert decode_journal(found.journal).do["reserve"].error == "StepFailed: none left"


async def test_a_failing_neighbour_costs_nobody_its_step(store_url: str) -> None:
    """Steps share a transaction; one that fails after it has written is done again apart, and only it is undone."""
    box, _ = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step(retry=SOON)
    async def write(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        await note(tx, state.order_id)
        if state.order_id.endswith("7"):
            raise ValueError(ctx.attempt)

    box.include(saga)
    ids = [f"o-{number}" for number in range(20)]
    async with box.running():
        await create_tables(box)
        await start(box, saga, *ids)
        for saga_id in ids:
            found = await until(box, saga_id, "completed", "compensated")
            assert found.summary.status == ("compensated" if saga_id.endswith("7") else "completed")

        assert sorted(await noted(box)) == sorted(one for one in ids if not one.endswith("7"))
        history = [one.what for one in decode_journal((await box.sagas.get("o-7")).journal).history]
        assert history == ["failed", "given up", "compensating", "compensated"]


async def test_a_step_whose_transaction_a_later_one_spoiled_is_called_again_and_has_one_effect(store_url: str) -> None:
    box, _ = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    calls: list[str] = []

    @saga.step
    async def first(state: Order, tx: AsyncConnection) -> None:
        calls.append("first")
        state.notes.append("first")
        await note(tx, "first")

    @first.compensate
    async def undo_first(state: Order, tx: AsyncConnection) -> None:
        await note(tx, f"undo {state.notes}")

    @saga.step(retry=SOON)
    async def second(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        calls.append(f"second {ctx.attempt}")
        await note(tx, "second")
        raise ValueError(ctx.attempt)

    box.include(saga)
    async with box.running():
        await create_tables(box)
        await start(box, saga, "o-1")
        await until(box, "o-1", "compensated")

        assert await noted(box) == ["first", "undo ['first']"]
        assert [one for one in calls if one != "first"] == ["second 1", "second 2"], "an attempt is a call"
        assert calls.count("first") == 2


async def test_ten_starts_at_once_of_one_id_are_one_saga(store_url: str) -> None:
    box, _ = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step
    async def only(state: Order, tx: AsyncConnection) -> None:
        await note(tx, state.order_id)

    box.include(saga)
    async with box.running():
        await create_tables(box)

        async def start_one() -> bool:
            async with box.transaction() as tx:
                return await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)

        async with asyncio.TaskGroup() as group:
            starts = [group.create_task(start_one()) for _ in range(10)]
        await until(box, "o-1", "completed")

        assert [one.result() for one in starts].count(True) == 1
        assert await noted(box) == ["o-1"]


async def test_a_step_that_timed_out_is_undone_and_the_late_do_is_refused(store_url: str) -> None:
    """The participant is away until the saga has given up; the undo leaves a tombstone, and the do does nothing."""
    box, _ = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    heard: list[str] = []

    @saga.request(replies=(StockReserved,), timeout=BRIEF)
    def reserve(state: Order) -> ReserveStock:
        return ReserveStock(state.order_id)

    @reserve.compensate(replies=(StockReleased,))
    def release(state: Order) -> ForgetReservation:
        return ForgetReservation(state.order_id)

    box.include(saga)
    participant, happenings = make_box(store_url, service="stock")

    @participant.on(ForgetReservation, name="release")
    async def forget(wanted: ForgetReservation, tx: AsyncConnection) -> StockReleased:
        heard.append("undo")
        return StockReleased(wanted.order_id)

    async with box.running():
        await start(box, saga, "o-1")
        async with participant.running():
            found = await until(box, "o-1", "compensated")
        assert decode_journal(found.journal).do["reserve"].state == "unknown"

        @participant.on(ReserveStock, name="reserve")
        async def late(wanted: ReserveStock, tx: AsyncConnection) -> StockReserved:
            heard.append("do")
            return StockReserved(wanted.order_id)

        async with participant.running():
            await happenings.until(MessageHandled, consumer=None, count=2)

    assert heard == ["undo"]


async def test_a_command_that_was_done_is_answered_again_and_not_done_again(store_url: str) -> None:
    """The reply comes too late for the first attempt; the second is another message, and is not done twice."""
    box, happenings = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.request(replies=(StockReserved,), timeout=BRIEF, retry=Retry(attempts=200, immediate=0, first=timedelta(0)))
    def reserve(state: Order) -> ReserveStock:
        return ReserveStock(state.order_id)

    @reserve.on(StockReserved)
    def reserved(state: Order, reply: StockReserved) -> None:
        state.notes.append("heard")

    box.include(saga)
    participant, done = make_box(store_url, service="stock")
    stock(participant)
    async with box.running():
        await create_tables(box)
        await start(box, saga, "o-1")
        await wait_until(lambda: len(happenings.of(SagaStepFailed)) >= 2, timedelta(seconds=20))
        async with participant.running():
            found = await until(box, "o-1", "completed")
            await done.until(MessageHandled, 3)
        assert await noted(box) == ["o-1 reserved"]
        assert msgspec.json.decode(found.state)["notes"] == ["heard"]


async def test_an_id_as_long_as_may_be_is_known_to_its_participant_and_holds_up_no_other(store_url: str) -> None:
    box, _ = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment-of-orders-from-abroad", state=Order)
    done: list[str] = []

    @saga.request(replies=(StockReserved,), name="reserve-in-the-warehouse-that-is-nearest-to-the-customer")
    def reserve(state: Order) -> ReserveStock:
        return ReserveStock(state.order_id)

    @saga.step
    async def refuse(state: Order) -> None:
        raise StepFailed("nobody drives there")

    @reserve.compensate(replies=(StockReleased,))
    def release(state: Order) -> ReleaseStock:
        return ReleaseStock(state.order_id)

    box.include(saga)

    @box.on(ReserveStock, ReleaseStock, name="stock")
    async def handle(wanted: ReserveStock | ReleaseStock, tx: AsyncConnection) -> StockReserved | StockReleased:
        done.append(f"{type(wanted).__name__} {len(wanted.order_id)}")
        is_undo = isinstance(wanted, ReleaseStock)
        return StockReleased(wanted.order_id) if is_undo else StockReserved(wanted.order_id)

    longest = "o" * 512
    async with box.running():
        await start(box, saga, longest, "short")
        await until(box, "short", "compensated")
        await until(box, longest, "compensated")

    assert sorted(set(done)) == ["ReleaseStock 5", "ReleaseStock 512", "ReserveStock 5", "ReserveStock 512"]


async def test_a_process_whose_id_others_made_very_long_starts_its_saga(store_url: str) -> None:
    box, _ = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step
    async def create(state: Order, tx: AsyncConnection) -> None: ...

    box.include(saga, started_by=StockReleased, state_from=lambda released: Order(released.order_id))
    foreign = Origin(correlation_id="c" * 700)
    async with box.running():
        async with box.transaction() as tx:
            outbox = box._parts().outbox
            await adopt(tx).run(outbox.append([outbox.prepare(StockReleased("o-1"), origin=foreign)]))
        await wait_until(lambda: _is_there(box, "o-1"), timedelta(seconds=20))
        found = await until(box, "o-1", "completed")

    assert found.correlation_id == f"sha256:{sha256(b'c' * 700).hexdigest()}"


async def _is_there(box: Pillarbox, saga_id: str) -> bool:
    return saga_id in [one.saga_id for one in await box.sagas.list()]


@pytest.mark.parametrize("where", ["request", "reaction"])
async def test_what_hangs_about_a_request_is_cut_off_and_holds_no_other_saga_up(
    store_url: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction is that of others, so it cannot have it for ever."""
    monkeypatch.setattr("pillarbox.saga.course.CALL_WITHIN", BRIEF)
    box, _ = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    hung: list[str] = []

    async def hang_once(at: str, order_id: str) -> None:
        if at == where and order_id == "o-hangs" and not hung:
            hung.append(at)
            await asyncio.Event().wait()

    @saga.request(replies=(StockReserved,), retry=Retry(attempts=2, immediate=0, first=timedelta(milliseconds=10)))
    async def reserve(state: Order) -> ReserveStock:
        await hang_once("request", state.order_id)
        return ReserveStock(state.order_id)

    @reserve.on(StockReserved)
    async def reserved(state: Order, reply: StockReserved) -> None:
        await hang_once("reaction", state.order_id)

    box.include(saga)
    stock(box)
    async with box.running():
        await create_tables(box)
        await start(box, saga, "o-hangs", "o-goes")
        await until(box, "o-goes", "completed")
        await until(box, "o-hangs", "completed")

    assert hung == [where]


async def test_an_undo_that_always_fails_blocks_earlier_ones_then_they_run_and_an_operator_ends_it(
    store_url: str,
) -> None:
    box, happenings = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    is_mended: list[bool] = []
    order: list[str] = []

    @saga.step
    async def first(state: Order, tx: AsyncConnection) -> None: ...

    @first.compensate
    async def not_first(state: Order, tx: AsyncConnection) -> None:
        order.append("undo first")

    @saga.step
    async def second(state: Order, tx: AsyncConnection) -> None: ...

    @second.compensate(retry=SOON)
    async def not_second(state: Order, tx: AsyncConnection) -> None:
        order.append("undo second")
        if not is_mended:
            raise ConnectionError("away")

    @saga.step
    async def third(state: Order, tx: AsyncConnection) -> None:
        raise StepFailed("no")

    box.include(saga)
    async with box.running():
        await create_tables(box)
        await start(box, saga, "o-1")
        await until(box, "o-1", "needs_attention")
        assert order == ["undo second", "undo second", "undo first"]
        assert [one.saga_id for one in happenings.of(SagaNeedsAttention)] == ["o-1"]

        with pytest.raises(ValueError, match="who"):
            await box.sagas.retry("o-1", reason="mended", by="")
        is_mended.append(True)
        await box.sagas.retry("o-1", reason="mended", by="ann")
        await until(box, "o-1", "compensated")

        assert order == ["undo second", "undo second", "undo first", "undo second"]
        acts = await box.store.run(box.store.operators.acts.find(kind="saga"))
        assert [(one.act.what, one.act.by, one.act.reason) for one in acts] == [("retry", "ann", "mended")]
        with pytest.raises(ConflictError, match="ended"):
            await box.sagas.retry("o-1", reason="again", by="ann")


async def test_past_the_pivot_nothing_is_undone_and_skipping_ends_it(store_url: str) -> None:
    box, _ = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    undone: list[str] = []

    @saga.step
    async def first(state: Order, tx: AsyncConnection) -> None: ...

    @first.compensate
    async def not_first(state: Order, tx: AsyncConnection) -> None:
        undone.append("first")

    @saga.step(pivot=True)
    async def pay(state: Order, tx: AsyncConnection) -> None: ...

    @saga.step(retry=SOON)
    async def ship(state: Order, tx: AsyncConnection) -> None:
        raise ConnectionError("no van")

    box.include(saga)
    async with box.running():
        await create_tables(box)
        await start(box, saga, "o-1", "o-2")
        await until(box, "o-1", "needs_attention")
        await until(box, "o-2", "needs_attention")
        assert undone == []

        with pytest.raises(ConflictError, match="pivot"):
            await box.sagas.cancel("o-1", reason="late", by="ann")
        with pytest.raises(ConflictError, match="first"):
            await box.sagas.skip("o-1", step="first", reason="?", by="ann")
        await box.sagas.skip("o-1", step="ship", reason="carried there", by="ann")
        await until(box, "o-1", "completed")
        await box.sagas.compensate("o-2", reason="given up", by="ann")
        await until(box, "o-2", "compensated")
        assert undone == ["first"]


async def test_a_cancelled_saga_is_undone_once_what_is_under_way_has_ended(store_url: str) -> None:
    box, _ = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    begun, go_on = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    @saga.step
    async def call(state: Order) -> None:
        begun.set()
        await go_on.wait()
        order.append("called")

    @call.compensate
    async def call_back(state: Order) -> None:
        order.append("called back")

    @saga.step
    async def never(state: Order) -> None:
        order.append("never")

    box.include(saga)
    async with box.running():
        await create_tables(box)
        await start(box, saga, "o-1")
        await begun.wait()
        await box.sagas.cancel("o-1", reason="changed their mind", by="ann")
        with pytest.raises(AssertionError):
            await wait_until(lambda: bool(order), timedelta(milliseconds=100))
        go_on.set()
        await until(box, "o-1", "compensated")

    assert order == ["called", "called back"]


async def test_parallel_steps_change_fields_of_their_own_and_clash_over_one(store_url: str) -> None:
    box, _ = make_box(store_url)
    together: set[str] = set()
    both = asyncio.Event()

    def saga_of(name: str, second_field: str) -> Saga[Order]:
        saga: Saga[Order] = Saga(name, state=Order)

        @saga.step(parallel="both")
        async def pay(state: Order) -> None:
            together.add("pay")
            await _meet(together, both)
            state.paid = "yes"

        @saga.step(parallel="both")
        async def ship(state: Order) -> None:
            together.add("ship")
            await _meet(together, both)
            setattr(state, second_field, "gone")

        return saga

    fine, clashing = saga_of("fine", "shipped"), saga_of("clashing", "paid")
    box.include(fine)
    box.include(clashing)
    async with box.running():
        await start(box, fine, "o-1")
        found = await until(box, "o-1", "completed")
        await start(box, clashing, "o-2")
        clash = await until(box, "o-2", "compensated")

    assert msgspec.json.decode(found.state) == {"order_id": "o-1", "notes": [], "paid": "yes", "shipped": "gone"}
    assert "two parallel steps change paid" in clash.journal


async def _meet(together: set[str], both: asyncio.Event) -> None:
    if len(together) == 2:
        both.set()
    await asyncio.wait_for(both.wait(), 10)


async def test_a_child_is_a_step_and_is_undone_as_one(store_url: str) -> None:
    box, _ = make_box(store_url)
    order: list[str] = []
    child: Saga[Order] = Saga("delivery", state=Order)

    @child.step
    async def deliver(state: Order, tx: AsyncConnection) -> None:
        order.append("deliver")

    @deliver.compensate
    async def fetch_back(state: Order, tx: AsyncConnection) -> None:
        order.append("fetch back")

    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.child(child)
    def delivery(state: Order) -> Order:
        return Order(state.order_id)

    @saga.step
    async def thank(state: Order, tx: AsyncConnection) -> None:
        if state.order_id == "o-2":
            raise StepFailed("no thanks")
        order.append("thank")

    box.include(saga)
    with pytest.raises(InvalidSetupError, match="delivery"):
        box.consumers()
    box.include(child)
    async with box.running():
        await start(box, saga, "o-1")
        await until(box, "o-1", "completed")
        await until(box, "o-1.fulfilment.delivery", "completed")
        await start(box, saga, "o-2")
        await until(box, "o-2", "compensated")
        await until(box, "o-2.fulfilment.delivery", "compensated")

    assert order == ["deliver", "thank", "deliver", "fetch back"]


async def test_versions_run_side_by_side_and_a_changed_one_is_refused(store_url: str) -> None:
    deployed: list[bool] = []

    def saga_of(version: int, *names: str, **options: object) -> Saga[Order]:
        saga: Saga[Order] = Saga("fulfilment", state=Order, version=version, **options)  # type: ignore[arg-type]
        for name in names:

            async def step(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
                if ctx.step == "wait" and not deployed:
                    raise ConnectionError("until the deploy")
                await note(tx, f"{state.order_id} {ctx.step}")

            saga.step(name=name, retry=Retry(attempts=500, immediate=0, first=timedelta(milliseconds=40), factor=1))(
                step
            )
        return saga

    old, changed = saga_of(1, "a", "wait"), saga_of(1, "b", "wait")
    box, _ = make_box(store_url)
    box.include(old)
    async with box.running():
        await create_tables(box)
        await start(box, old, "o-1")
        await wait_until(lambda: _has_noted(box, "o-1 a"), timedelta(seconds=20))

        refused = box.twin(store=box.store, settings=box.settings)
        refused._sagas = type(refused._sagas)("shop")
        refused._sagas.add(changed, None)  # a running box refuses to include more
        with pytest.raises(InvalidSetupError, match="version 1 have changed"):
            await refused._workers(relay=False, consumers=False, sagas=True)

    newer = saga_of(2, "a", "wait", "c", upcasters={1: lambda state: {**state, "notes": ["upcast"]}})
    deployed.append(True)
    box, _ = make_box(store_url)
    box.include(newer)
    async with box.running():
        await start(box, newer, "o-2")
        found = await until(box, "o-1", "completed")
        await until(box, "o-2", "completed")

        assert found.summary.version == 2
        assert msgspec.json.decode(found.state)["notes"] == ["upcast"]
        assert sorted(await noted(box)) == ["o-1 a", "o-1 c", "o-1 wait", "o-2 a", "o-2 c", "o-2 wait"]


async def _has_noted(box: Pillarbox, what: str) -> bool:
    return what in await noted(box)


async def test_a_reply_that_nobody_asked_for_is_a_dead_letter(store_url: str) -> None:
    box, happenings = make_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.request(replies=(StockReserved,))
    def reserve(state: Order) -> ReserveStock:
        return ReserveStock(state.order_id)

    box.include(saga)

    @box.on(ReserveStock, name="forge")
    async def forge(wanted: ReserveStock, tx: AsyncConnection, ctx: Context) -> StockReserved:
        token = ctx.headers["replytoken"]
        ctx._message = msgspec.structs.replace(  # type: ignore[misc]
            ctx._message, headers={**ctx.headers, "replytoken": token[:-8] + "AAAAAAA="}
        )
        return StockReserved(wanted.order_id)

    async with box.running():
        await create_tables(box)
        await start(box, saga, "o-1")
        (dead,) = await happenings.until(MessageDead)
        assert dead.reason == "permanent"
        assert (await box.sagas.get("o-1")).summary.status == "running"
