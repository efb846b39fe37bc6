"""A handler that is cancelled by something it called has failed; the loop that called it goes on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga
from pillarbox.testing import Harness
from tests.integration.boxes import OrderPlaced, create_tables, note, note_sync, noted
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

TWICE = Retry(attempts=2)
PATIENCE = timedelta(seconds=10)


class Price:
    """What handlers ask for."""


@dataclass
class Order:
    order_id: str


def cancelled() -> NoReturn:
    """Raise what a loop of its own raises, as of ``asyncio.run``, in which something was cancelled."""
    raise asyncio.CancelledError


def exhausted() -> NoReturn:
    """Raise what a plain function may and a coroutine may not."""
    raise StopIteration


async def check(box: Pillarbox, done: list[str], *, attempts: int = 2, reason: str = "exhausted") -> Harness:
    """Publish one message that fails and two that do not, and look at what became of them."""
    async with Harness(box) as harness:
        await create_tables(harness.box)
        for name in ("bad", "good", "better"):
            await harness.publish(OrderPlaced(name))
        await harness.until_quiet(patience=PATIENCE)

        assert set(done) == {"good", "better"}
        (letter,) = harness.dead_letters
        assert (letter.message.key, letter.attempts, letter.reason) == ("bad", attempts, reason)
        assert set(await noted(harness.box)) <= {"better", "good"}
    return harness


@pytest.mark.parametrize("with_transaction", [False, True])
async def test_it_counts_as_an_attempt_and_the_messages_behind_it_are_handled(with_transaction: bool) -> None:
    box = Pillarbox("shop", store="memory://")
    done: list[str] = []

    async def work(order: OrderPlaced) -> None:
        if order.order_id == "bad":
            raise asyncio.CancelledError
        done.append(order.order_id)

    if with_transaction:

        @box.on(OrderPlaced, name="handle", retry=TWICE)
        async def in_transaction(order: OrderPlaced, tx: AsyncConnection) -> None:
            await note(tx, order.order_id)
            await work(order)
    else:

        @box.on(OrderPlaced, name="handle", retry=TWICE)
        async def outside(order: OrderPlaced) -> None:
            await work(order)

    await check(box, done)


@pytest.mark.parametrize("fail", [cancelled, exhausted])
@pytest.mark.parametrize("shape", ["outside", "transaction", "written", "batch"])
async def test_in_a_thread_it_counts_as_an_attempt_too(shape: str, fail: Callable[[], NoReturn]) -> None:
    box = Pillarbox("shop", store="memory://")
    done: list[str] = []

    def work(order: OrderPlaced) -> None:
        if order.order_id == "bad":
            fail()
        done.append(order.order_id)

    if shape == "outside":

        @box.on(OrderPlaced, name="handle", retry=TWICE)
        def outside(order: OrderPlaced) -> None:
            work(order)
    elif shape == "batch":

        @box.on(OrderPlaced, name="handle", retry=TWICE, batch=10)
        def batch(orders: list[OrderPlaced], tx: Connection) -> None:
            for order in orders:
                work(order)
    else:

        @box.on(OrderPlaced, name="handle", retry=TWICE)
        def in_transaction(order: OrderPlaced, tx: Connection) -> None:
            if shape == "written":
                note_sync(tx, order.order_id)
            work(order)

    await check(box, done)


@pytest.mark.parametrize("shape", ["outside", "plain", "asynchronous"])
async def test_what_makes_what_a_handler_asks_for_may_be_cancelled_too(shape: str) -> None:
    box = Pillarbox("shop", store="memory://")
    made: list[Price] = []
    done: list[str] = []

    def price() -> Price:
        made.append(Price())
        if len(made) <= 2:
            raise asyncio.CancelledError
        return made[-1]

    box.provide(Price, price, scope="message")
    if shape == "outside":

        @box.on(OrderPlaced, name="handle", retry=TWICE)
        def outside(order: OrderPlaced, price: Price) -> None:
            done.append(order.order_id)
    elif shape == "plain":

        @box.on(OrderPlaced, name="handle", retry=TWICE)
        def plain(order: OrderPlaced, tx: Connection, price: Price) -> None:
            done.append(order.order_id)
    else:

        @box.on(OrderPlaced, name="handle", retry=TWICE)
        async def asynchronous(order: OrderPlaced, tx: AsyncConnection, price: Price) -> None:
            done.append(order.order_id)

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("bad"))
        await harness.until_quiet(patience=PATIENCE)
        await harness.publish(OrderPlaced("good"))
        await harness.until_quiet(patience=PATIENCE)

        assert done == ["good"]
        (letter,) = harness.dead_letters
        assert (letter.message.key, letter.attempts, letter.reason) == ("bad", 2, "exhausted")


@pytest.mark.parametrize("with_transaction", [False, True])
async def test_a_business_key_whose_function_is_cancelled_is_missing(with_transaction: bool) -> None:
    box = Pillarbox("shop", store="memory://")
    done: list[str] = []

    def key_of(order: OrderPlaced) -> str:
        if order.order_id == "bad":
            cancelled()
        return order.order_id

    if with_transaction:

        @box.on(OrderPlaced, name="handle", dedupe_by=key_of)
        def in_transaction(order: OrderPlaced, tx: Connection) -> None:
            done.append(order.order_id)
    else:

        @box.on(OrderPlaced, name="handle", dedupe_by=key_of, outside=True)
        async def outside(order: OrderPlaced) -> None:
            done.append(order.order_id)

    await check(box, done, attempts=0, reason="no-business-key")


@pytest.mark.parametrize("fail", [cancelled, exhausted])
@pytest.mark.parametrize("is_outside", [False, True])
async def test_a_plain_step_that_is_cancelled_has_failed(is_outside: bool, fail: Callable[[], NoReturn]) -> None:
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)
    done: list[str] = []

    def work(order: Order) -> None:
        if order.order_id == "bad":
            fail()
        done.append(order.order_id)

    if is_outside:

        @fulfil.step(retry=TWICE)
        def pay(state: Order) -> None:
            work(state)
    else:

        @fulfil.step(retry=TWICE)
        def write(state: Order, tx: Connection) -> None:
            work(state)

    box.include(fulfil)
    async with box, box.running():
        async with box.transaction() as tx:
            for name in ("bad", "good"):
                await box.sagas.start(fulfil, Order(name), saga_id=name, tx=tx)

        async def have_ended() -> bool:
            ended = [(await box.sagas.get(name)).summary.status.value for name in ("bad", "good")]
            return ended == ["compensated", "completed"]

        await wait_until(have_ended, PATIENCE)

    assert done == ["good"]
