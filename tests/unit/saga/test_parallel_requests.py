"""Parallel steps whose functions make a command, or a child, and change the state meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga, command, event
from pillarbox.saga.journal import decode_journal
from tests.unit.saga.standing import stands

ONCE = Retry(attempts=1)


@command("carrier.book", queue="carrier", key="order_id")
@dataclass(frozen=True)
class Book:
    order_id: str


@event("carrier.booked", key="order_id")
@dataclass(frozen=True)
class Booked:
    order_id: str


@dataclass
class Order:
    order_id: str
    carrier: str = ""
    slip: str = ""


Declare: TypeAlias = Callable[[Saga[Order], Pillarbox], None]


def asking(saga: Saga[Order], box: Pillarbox) -> None:
    """A step that notes the carrier as it asks it."""

    @saga.request(replies=(Booked,), parallel="both")
    def ask(state: Order) -> Book:
        state.carrier = "rail"
        return Book(state.order_id)


def starting(saga: Saga[Order], box: Pillarbox) -> None:
    """A step that notes the carrier as it starts a child."""
    delivery = Saga("delivery", state=Order)

    @delivery.step
    async def deliver(state: Order, tx: AsyncConnection) -> None: ...

    @saga.child(delivery, parallel="both")
    def ask(state: Order) -> Order:
        state.carrier = "rail"
        return Order(state.order_id)

    box.include(delivery)


def calling(saga: Saga[Order], box: Pillarbox) -> None:
    @saga.step(parallel="both", retry=ONCE)
    async def note(state: Order) -> None:
        state.slip, state.carrier = "s-1", "road"


def writing(saga: Saga[Order], box: Pillarbox) -> None:
    @saga.step(parallel="both", retry=ONCE)
    async def note(state: Order, tx: AsyncConnection) -> None:
        state.slip, state.carrier = "s-1", "road"


@pytest.mark.parametrize("second", [calling, writing])
@pytest.mark.parametrize("first", [asking, starting])
async def test_what_a_request_or_child_has_changed_is_no_other_parallel_step_s_to_change(
    first: Declare, second: Declare
) -> None:
    box, saga = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)
    first(saga, box)
    second(saga, box)

    @box.on(Book, name="book")
    async def book(asked: Book, tx: AsyncConnection) -> Booked:
        return Booked(asked.order_id)

    box.include(saga)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        found = await stands(box, "fulfil", "o-1", "completed", "compensated", "needs_attention")

    assert found.summary.status == "compensated"
    assert "two parallel steps change carrier" in decode_journal(found.journal).do["note"].error
