"""Calls to the outside: whose they are, how answers come back, and handlers that make them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pydantic
import pytest
from sqlalchemy import make_url, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, Pillarbox, Retry, event
from pillarbox.app import SystemClock
from pillarbox.errors import ConfigurationError, InDoubtError, NotFoundError, TransientError
from pillarbox.idempotency import call_once
from pillarbox.idempotency.calls import Held
from pillarbox.idempotency.outside_calls import OutsideCalls
from pillarbox.message import new_message_id
from pillarbox.relational.calls import RelationalCallStore
from pillarbox.relational.expressions import micros, now_us
from pillarbox.relational.tables import outside_calls
from pillarbox.serialization import JsonCodec
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.testing import Harness, VirtualClock
from pillarbox.testing.waiting import assert_blocked
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.clock import Clock
    from pillarbox.idempotency.calls import Standing
    from pillarbox.relational import RelationalStore
    from pillarbox.transaction import Program

DAY, HOLD = timedelta(hours=24), timedelta(seconds=15)


@dataclass(frozen=True)
class Receipt:
    number: str
    paid: Decimal
    notes: tuple[str, ...] = ()


class ReceiptStruct(msgspec.Struct, frozen=True):
    number: str
    paid: Decimal


class ReceiptModel(pydantic.BaseModel):
    number: str
    paid: Decimal


@pytest.fixture
async def store() -> AsyncIterator[RelationalStore]:
    made = sqlite_store(make_url("sqlite://"))
    await made.migrate()
    yield made
    await made.close()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def store_in_time(clock: VirtualClock) -> AsyncIterator[RelationalStore]:
    """A store whose database's clock is the test's."""
    made = sqlite_store(make_url("sqlite://"), now=clock.now)
    await made.migrate()
    yield made
    await made.close()


def calls_on(store: RelationalStore, *, clock: Clock | None = None, hold: timedelta = HOLD) -> OutsideCalls:
    clock = clock or SystemClock()
    return OutsideCalls(store.calls, source=store, codec=JsonCodec(), clock=clock, new_token=new_message_id, hold=hold)


class Payments:
    """Another side that knows no keys and counts."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.keys: list[str] = []

    async def charge(self, key: str) -> Any:
        self.keys.append(key)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        Receipt("r-1", Decimal("12.30"), ("thanks",)),
        ReceiptStruct("r-1", Decimal("12.30")),
        ReceiptModel(number="r-1", paid=Decimal("12.30")),
    ],
    ids=["dataclass", "struct", "pydantic"],
)
async def test_a_typed_answer_comes_back_as_it_was(store: RelationalStore, answer: object) -> None:
    payments = Payments(answer)

    for _ in range(3):
        found = await calls_on(store).once("k", payments.charge, answer=type(answer), remembered_for=None)
        assert found == answer
    assert payments.keys == ["k"]


@pytest.mark.parametrize("answer", [None, True, 12, "r-1", {"a": [1, None, "x"]}, []], ids=repr)
async def test_plain_data_comes_back_as_it_was(store: RelationalStore, answer: object) -> None:
    payments = Payments(answer)

    found = [await calls_on(store).once("k", payments.charge, remembered_for=None) for _ in range(2)]

    assert found == [answer, answer]


async def test_the_first_answer_looks_as_all_later_ones_do(store: RelationalStore) -> None:
    payments = Payments({"paid": (1, 2)})

    assert [await calls_on(store).once("k", payments.charge, remembered_for=None) for _ in range(2)] == [
        {"paid": [1, 2]}
    ] * 2


async def test_a_class_that_cannot_be_stored_is_refused_before_the_call(store: RelationalStore) -> None:
    payments = Payments()

    with pytest.raises(ConfigurationError, match="carried"):
        await calls_on(store).once("k", payments.charge, answer=Payments, remembered_for=DAY)
    with pytest.raises(ConfigurationError, match="remembered_for"):
        await calls_on(store).once("k", payments.charge, remembered_for=timedelta(0))
    assert payments.keys == []


@pytest.mark.parametrize("answer", [object(), float("nan")], ids=["object", "nan"])
async def test_an_answer_that_could_not_be_read_again_leaves_the_call_in_doubt(
    store: RelationalStore, answer: object
) -> None:
    calls = calls_on(store)

    with pytest.raises(InDoubtError, match="cannot be stored") as caught:
        await calls.once("k", Payments(answer).charge, remembered_for=None, failed=(Exception,))

    assert caught.value.key == "k"
    assert [one.key for one in await calls.in_doubt()] == ["k"]


# --- whose the call is -----------------------------------------------------------------------------------------------


async def test_of_two_at_once_one_calls_and_both_have_the_answer(store: RelationalStore) -> None:
    is_asked, may_answer = asyncio.Event(), asyncio.Event()
    asked: list[str] = []

    async def charge(key: str) -> str:
        asked.append(key)
        is_asked.set()
        await may_answer.wait()
        return "r-1"

    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(calls_on(store).once("k", charge, remembered_for=DAY))
        await is_asked.wait()
        second = tasks.create_task(calls_on(store).once("k", charge, remembered_for=DAY))
        await assert_blocked(second)
        may_answer.set()

    assert (first.result(), second.result(), asked) == ("r-1", "r-1", ["k"])


async def test_a_call_that_somebody_makes_for_long_is_left_to_them(store: RelationalStore) -> None:
    await store.run(store.calls.begin("k", token="another", hold=DAY, repeatable_for=DAY))

    with pytest.raises(TransientError, match="somebody else"):
        await calls_on(store, hold=timedelta(milliseconds=30)).once("k", Payments().charge, remembered_for=DAY)


async def test_a_long_call_stays_its_caller_s(clock: VirtualClock, store_in_time: RelationalStore) -> None:
    store = store_in_time
    seen: list[Standing] = []

    async def is_renewed() -> bool:
        async with store.begin() as tx:
            left: int = await tx.connection.scalar(select(outside_calls.c.held_until - now_us()))
        return left > micros(HOLD * 0.9)

    async def charge(key: str) -> str:
        for _ in range(10):
            await wait_until(lambda: clock._sleepers, what="the next renewal is set for later")
            clock.advance(HOLD / 3)
            await wait_until(is_renewed)
        seen.append(await store.run(store.calls.begin(key, token="x", hold=HOLD, repeatable_for=DAY)))
        return "r-1"

    assert await calls_on(store, clock=clock).once("k", charge, remembered_for=DAY) == "r-1"
    assert seen == [Held()]


class Sluggish(RelationalCallStore):
    """Answers only when the process has stood still for as long as a hold lasts; then it is itself again."""

    def __init__(self, clock: VirtualClock, stands_still_for: timedelta) -> None:
        self._clock = clock
        self._for = stands_still_for

    def begin(self, key: str, *, token: str, hold: timedelta, repeatable_for: timedelta | None) -> Program[Standing]:
        standing = yield from super().begin(key, token=token, hold=hold, repeatable_for=repeatable_for)
        stood_still, self._for = self._for, timedelta(0)
        self._clock.advance(stood_still)
        return standing


@pytest.mark.parametrize("remembered_for", [None, DAY], ids=["no-keys", "keys"])
async def test_a_process_that_stood_still_does_not_call_on_what_it_knew_before(
    clock: VirtualClock, store_in_time: RelationalStore, remembered_for: timedelta | None
) -> None:
    payments = Payments("r-1")
    store_in_time.calls = Sluggish(clock, DAY * 2)

    with pytest.raises(InDoubtError):
        await calls_on(store_in_time, clock=clock).once("k", payments.charge, remembered_for=remembered_for)

    assert payments.keys == []


# --- what becomes of failures ----------------------------------------------------------------------------------------


class Declined(Exception):  # noqa: N818
    """Nothing was charged."""


async def test_a_failure_that_proves_that_nothing_happened_lets_the_next_try_call(store: RelationalStore) -> None:
    payments = Payments(Declined(), "r-1")
    calls = calls_on(store)

    with pytest.raises(Declined):
        await calls.once("k", payments.charge, remembered_for=None, failed=(Declined,))

    assert await calls.once("k", payments.charge, remembered_for=None, failed=(Declined,)) == "r-1"


async def test_after_any_other_failure_the_call_is_in_doubt_at_once(store: RelationalStore) -> None:
    payments = Payments(TimeoutError(), "r-1")
    calls = calls_on(store)
    with pytest.raises(TimeoutError):
        await calls.once("k", payments.charge, remembered_for=None, failed=(Declined,))

    with pytest.raises(InDoubtError, match="knows no keys"):
        await calls.once("k", payments.charge, remembered_for=None)
    with pytest.raises(InDoubtError, match="remembers a key for 1 s"):
        await calls.once("k", payments.charge, remembered_for=timedelta(seconds=1))
    assert await calls.once("k", payments.charge, remembered_for=DAY) == "r-1"
    assert payments.keys == ["k", "k"]


async def test_a_person_decides_about_a_call_in_doubt(store: RelationalStore) -> None:
    payments = Payments(TimeoutError(), TimeoutError(), Receipt("r-2", Decimal(2)))
    calls, long_key = calls_on(store), "k" * 2000
    for key in ("k1", long_key):
        with pytest.raises(TimeoutError):
            await calls.once(key, payments.charge, answer=Receipt, remembered_for=None)

    await calls.record("k1", Receipt("r-1", Decimal(1)))
    await calls.allow(long_key)

    for key, expected in [("k1", Receipt("r-1", Decimal(1))), (long_key, Receipt("r-2", Decimal(2)))]:
        assert await calls.once(key, payments.charge, answer=Receipt, remembered_for=None) == expected
    for decide in (calls.record("k1", Receipt("r-9", Decimal(9))), calls.allow("k1"), calls.allow("nowhere")):
        with pytest.raises(NotFoundError, match="call in doubt"):
            await decide
    assert payments.keys == ["k1", long_key, long_key]
    assert await calls.purge(DAY) == 0


async def test_an_answer_that_was_recorded_wrongly_is_told_of_and_can_be_replaced(store: RelationalStore) -> None:
    payments, calls = Payments(TimeoutError()), calls_on(store)
    with pytest.raises(TimeoutError):
        await calls.once("k", payments.charge, answer=Receipt, remembered_for=None)
    await calls.record("k", {"nummer": 1})
    with pytest.raises(InDoubtError, match=r"cannot be read .* instead=True"):
        await calls.once("k", payments.charge, answer=Receipt, remembered_for=None)

    await calls.record("k", Receipt("r-1", Decimal(1)), instead=True)

    found = await calls.once("k", payments.charge, answer=Receipt, remembered_for=None)
    assert (found, payments.keys) == (Receipt("r-1", Decimal(1)), ["k"])
    with pytest.raises(NotFoundError, match="call with an answer"):
        await calls.record("nowhere", {}, instead=True)


# --- in handlers -----------------------------------------------------------------------------------------------------


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


async def test_a_handler_that_fails_after_its_call_has_the_answer_at_its_next_attempt() -> None:
    box, payments, receipts = (
        Pillarbox("shop", store="memory://"),
        Payments(Receipt("r-1", Decimal(1))),
        list[Receipt](),
    )

    @box.on(OrderPlaced, name="charge")
    async def charge(order: OrderPlaced, ctx: Context) -> None:
        receipt = await call_once(ctx, "card", payments.charge, answer=Receipt, remembered_for=DAY)
        receipts.append(receipt)
        if ctx.attempt == 1:
            raise ConnectionError

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("o-1"))
        await harness.until_quiet()

        assert receipts == [Receipt("r-1", Decimal(1))] * 2
        assert len(payments.keys) == 1
        assert payments.keys[0].startswith("shop/charge:")
        assert harness.dead_letters == ()


async def test_a_call_in_doubt_is_a_dead_letter_until_a_person_has_decided() -> None:
    box, payments = Pillarbox("shop", store="memory://"), Payments(TimeoutError("no answer"))

    @box.on(OrderPlaced, name="charge", retry=Retry(attempts=5))
    async def charge(order: OrderPlaced, ctx: Context) -> None:
        assert await call_once(ctx, "card", payments.charge, remembered_for=None) == "r-1"

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("o-1"))
        await harness.until_quiet()
        (letter,) = harness.dead_letters
        assert (letter.reason, letter.attempts) == ("permanent", 2)

        (doubtful,) = await harness.box.calls.in_doubt()
        await harness.box.calls.record(doubtful.key, "r-1")
        await harness.box.dead_letters.replay(letter.id, by="ann")
        await harness.until_quiet()

        assert harness.dead_letters == ()
        assert payments.keys == [doubtful.key]


async def test_a_handler_with_a_transaction_may_not_call() -> None:
    box, payments = Pillarbox("shop", store="memory://"), Payments()

    @box.on(OrderPlaced, name="charge", retry=Retry(attempts=1))
    async def charge(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> None:
        await call_once(ctx, "card", payments.charge, remembered_for=DAY)

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("o-1"))
        await harness.until_quiet()

        (letter,) = harness.dead_letters
        assert "asks for no transaction" in letter.error
        assert payments.keys == []
