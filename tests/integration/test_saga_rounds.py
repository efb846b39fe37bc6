"""An operator's retry of a step that was refused, once whoever refused it has been mended."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Retry, Saga, SagaContext, StepFailed, command, event
from pillarbox.observe import SagaStepFailed
from pillarbox.saga.journal import decode_journal
from tests.integration.boxes import create_tables, make_box, note, noted
from tests.integration.conftest import MARIADB, SERVERS
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from pillarbox.saga.journal import Journal

pytestmark = pytest.mark.parametrize("store_url", ["sqlite", SERVERS[1], MARIADB], indirect=True)
TWICE = Retry(attempts=2, immediate=0, first=timedelta(0))
OFTEN = Retry(attempts=200, immediate=0, first=timedelta(0))
BRIEF = timedelta(milliseconds=300)


@dataclass
class Order:
    order_id: str


@command("rounds.reserve", queue="rounds", key="order_id")
@dataclass(frozen=True)
class Reserve:
    order_id: str


@event("rounds.reserved", key="order_id")
@dataclass(frozen=True)
class Reserved:
    order_id: str


@event("rounds.rejected", key="order_id")
@dataclass(frozen=True)
class Rejected:
    order_id: str


@dataclass
class OtherSide:
    """Whoever does the step: it refuses until it is mended."""

    is_mended: bool = False
    asked: list[str] = field(default_factory=list)


def beyond_the_pivot() -> Saga[Order]:
    """A saga that is past its pivot: what fails from here on is for an operator."""
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step(pivot=True)
    async def pay(state: Order, tx: AsyncConnection) -> None:
        await note(tx, "paid")

    return saga


async def start(box: Pillarbox, saga: Saga[Order]) -> None:
    await create_tables(box)
    async with box.transaction() as tx:
        await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)


async def until(box: Pillarbox, status: str, *, retries: int = 0) -> Journal:
    """Wait until the saga stands at ``status`` after it was tried again so often."""

    async def stands() -> Journal | None:
        found = await box.sagas.get("o-1")
        journal = decode_journal(found.journal)
        tried = sum(entry.what == "retried" for entry in journal.history)
        return journal if (found.summary.status, tried) == (status, retries) else None

    try:
        journal = await wait_until(stands, timedelta(seconds=20))
    except AssertionError as error:
        error.add_note((await box.sagas.get("o-1")).journal)
        raise
    assert journal is not None
    return journal


async def retry(box: Pillarbox) -> None:
    await box.sagas.retry("o-1", reason="it is mended", by="ann")


@pytest.mark.parametrize("handler", ["with a transaction", "without one"])
async def test_a_refused_request_is_done_once_when_its_participant_was_mended(store_url: str, handler: str) -> None:
    box, _ = make_box(store_url)
    saga, stock = beyond_the_pivot(), OtherSide()

    @saga.request(replies=(Reserved, Rejected))
    def reserve(state: Order) -> Reserve:
        return Reserve(state.order_id)

    @reserve.on(Rejected)
    def rejected(state: Order, reply: Rejected) -> None:
        raise StepFailed("none left")

    def answer(wish: Reserve) -> Reserved | Rejected:
        stock.asked.append(wish.order_id)
        return Reserved(wish.order_id) if stock.is_mended else Rejected(wish.order_id)

    if handler == "with a transaction":

        @box.on(Reserve, name="stock")
        async def local(wish: Reserve, tx: AsyncConnection) -> Reserved | Rejected:
            given = answer(wish)
            await note(tx, type(given).__name__)
            return given

    else:

        @box.on(Reserve, name="stock")
        async def outside(wish: Reserve) -> Reserved | Rejected:
            return answer(wish)

    box.include(saga)
    async with box.running():
        await start(box, saga)
        await until(box, "needs_attention")
        await retry(box)
        await until(box, "needs_attention", retries=1)
        stock.is_mended = True
        await retry(box)
        journal = await until(box, "completed", retries=2)
        effects = await noted(box)

    assert [entry.what for entry in journal.history if entry.step == "reserve"] == [
        *("sent", "refused"),
        *("sent", "refused"),
        *("sent", "done"),
    ]
    assert len(stock.asked) == 3, "it was asked once in each round"
    assert effects == (["paid", "Rejected", "Rejected", "Reserved"] if handler == "with a transaction" else ["paid"])


async def test_a_request_that_timed_out_and_was_refused_then_is_done_once_its_participant_was_mended(
    store_url: str,
) -> None:
    """Its participant was away first; of all attempts of a round it does one, and answers the others with that."""
    box, happenings = make_box(store_url)
    saga, stock = beyond_the_pivot(), OtherSide()

    @saga.request(replies=(Reserved, Rejected), timeout=BRIEF, retry=OFTEN)
    def reserve(state: Order) -> Reserve:
        return Reserve(state.order_id)

    @reserve.on(Rejected)
    def rejected(state: Order, reply: Rejected) -> None:
        raise StepFailed("none left")

    box.include(saga)
    participant, _ = make_box(store_url, service="stock")

    @participant.on(Reserve, name="stock")
    async def handle(wish: Reserve, tx: AsyncConnection) -> Reserved | Rejected:
        if not stock.is_mended:
            stock.asked.append(wish.order_id)
            return Rejected(wish.order_id)
        await note(tx, "reserved")
        return Reserved(wish.order_id)

    async with box.running():
        await start(box, saga)
        await happenings.until(SagaStepFailed)
        async with participant.running():
            journal = await until(box, "needs_attention")
            stock.is_mended = True
            await retry(box)
            await until(box, "completed", retries=1)
        effects = await noted(box)

    assert journal.do["reserve"].state == "unknown"
    assert stock.asked == ["o-1"]
    assert effects == ["paid", "reserved"]


async def test_a_call_that_may_have_happened_keeps_its_key_though_it_is_refused_then(store_url: str) -> None:
    """The other side keeps its answers by key, its refusals too, as payment providers do."""
    box, _ = make_box(store_url)
    saga, bank = beyond_the_pivot(), OtherSide()
    answers: dict[str, bool] = {}

    @saga.step(retry=TWICE)
    async def charge(state: Order, ctx: SagaContext) -> None:
        key = ctx.idempotency_key("card")
        bank.asked.append(key)
        if len(bank.asked) <= 2:
            raise ConnectionError("the line was cut")
        if not answers.setdefault(key, bank.is_mended):
            raise StepFailed("declined")

    box.include(saga)
    async with box.running():
        await start(box, saga)
        await until(box, "needs_attention")
        await retry(box)
        await until(box, "needs_attention", retries=1)
        await box.sagas.skip("o-1", step="charge", reason="nobody heard, and then it was declined", by="ann")
        await until(box, "completed", retries=1)

    assert set(bank.asked) == {"shop/fulfilment:o-1:charge:do:card"}, "it may have happened: the key stays"


async def test_a_call_that_was_refused_is_made_under_a_new_key(store_url: str) -> None:
    box, _ = make_box(store_url)
    saga, bank = beyond_the_pivot(), OtherSide()
    answers: dict[str, bool] = {}

    @saga.step(retry=TWICE)
    async def charge(state: Order, ctx: SagaContext) -> None:
        key = ctx.idempotency_key("card")
        bank.asked.append(key)
        if not answers.setdefault(key, bank.is_mended):
            raise StepFailed("declined")
        if len(bank.asked) == 2:
            raise ConnectionError("the line was cut")

    box.include(saga)
    async with box.running():
        await start(box, saga)
        await until(box, "needs_attention")
        bank.is_mended = True
        await retry(box)
        await until(box, "completed", retries=1)

    first, second = (f"shop/fulfilment:o-1:charge:{direction}:card" for direction in ("do", "do.1"))
    assert bank.asked == [first, second, second]


async def test_a_child_that_was_compensated_is_followed_by_another_one(store_url: str) -> None:
    box, _ = make_box(store_url)
    saga, carrier = beyond_the_pivot(), OtherSide()
    child: Saga[Order] = Saga("delivery", state=Order)

    @child.step
    async def load(state: Order, tx: AsyncConnection) -> None:
        await note(tx, "loaded")

    @load.compensate
    async def unload(state: Order, tx: AsyncConnection) -> None:
        await note(tx, "unloaded")

    @child.step
    async def drive(state: Order, ctx: SagaContext) -> None:
        carrier.asked.append(ctx.idempotency_key())
        if not carrier.is_mended:
            raise StepFailed("no truck")

    @saga.child(child)
    def deliver(state: Order) -> Order:
        return state

    box.include(saga)
    box.include(child)
    async with box.running():
        await start(box, saga)
        await until(box, "needs_attention")
        carrier.is_mended = True
        await retry(box)
        await until(box, "completed", retries=1)
        effects = await noted(box)

    assert effects == ["paid", "loaded", "unloaded", "loaded"]
    assert len(set(carrier.asked)) == 2, "each child calls under keys of its own"


async def test_a_local_step_is_called_again_and_has_one_effect(store_url: str) -> None:
    box, _ = make_box(store_url)
    saga, books = beyond_the_pivot(), OtherSide()

    @saga.step
    async def book(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        books.asked.append(ctx.idempotency_key())
        await note(tx, "booked")
        if not books.is_mended:
            raise StepFailed("the books are closed")

    box.include(saga)
    async with box.running():
        await start(box, saga)
        await until(box, "needs_attention")
        books.is_mended = True
        await retry(box)
        await until(box, "completed", retries=1)
        effects = await noted(box)

    assert effects == ["paid", "booked"]
    assert set(books.asked) == {"shop/fulfilment:o-1:book:do"}, "what was refused was rolled back, keys and all"
