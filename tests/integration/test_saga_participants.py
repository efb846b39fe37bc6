"""Participants that pass commands on or answer nothing: each step is done once all the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Retry, Saga, WireTap, command, event
from pillarbox.errors import ConfigurationError, InvalidSetupError
from tests.integration.boxes import make_box
from tests.integration.test_saga_runs import end_of

BRIEF = timedelta(milliseconds=300)


@dataclass
class Order:
    order_id: str


@command("participants.reserve", queue="participants", key="order_id")
@dataclass(frozen=True)
class Reserve:
    order_id: str


@event("participants.reserved", key="order_id")
@dataclass(frozen=True)
class Reserved:
    order_id: str


def a_saga(*, attempts: int = 1, timeout: timedelta = timedelta(seconds=20)) -> Saga[Order]:
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.request(replies=(Reserved,), timeout=timeout, retry=Retry(attempts=attempts, immediate=0, first=timedelta(0)))
    def reserve(state: Order) -> Reserve:
        return Reserve(state.order_id)

    return saga


@pytest.mark.parametrize("handler", ["with a transaction", "without one"])
async def test_what_a_handler_did_without_an_answer_is_not_done_again_when_it_is_asked_again(
    store_url: str, handler: str
) -> None:
    box, _ = make_box(store_url)
    saga, called = a_saga(attempts=3, timeout=BRIEF), list[str]()

    if handler == "with a transaction":

        @box.on(Reserve, name="stock")
        async def local(wish: Reserve, tx: AsyncConnection) -> None:
            called.append(wish.order_id)

    else:

        @box.on(Reserve, name="stock", outside=True)
        async def outside(wish: Reserve) -> None:
            called.append(wish.order_id)

    box.include(saga)
    async with box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        ended = await end_of(box, "o-1")

    assert ended.summary.status == "compensated"
    assert called == ["o-1"]


async def test_a_command_of_a_saga_passes_a_tap_of_the_service_that_does_it(store_url: str) -> None:
    box, _ = make_box(store_url)
    saga, called = a_saga(), list[str]()
    box.include(WireTap("tap", source=Reserve, to="audit", then="participants.tapped"))

    @box.on(Reserve, name="stock", channel="participants.tapped")
    async def stock(wish: Reserve, tx: AsyncConnection) -> Reserved:
        called.append(wish.order_id)
        return Reserved(wish.order_id)

    box.include(saga)
    async with box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        ended = await end_of(box, "o-1")

    assert ended.summary.status == "completed"
    assert called == ["o-1"]


async def test_a_step_that_is_declared_while_a_box_runs_is_refused() -> None:
    """Else the saga would go on without it, and be another one after the next start."""
    box, _ = make_box("memory://")
    saga = a_saga()
    box.include(saga)

    async def late(state: Order, tx: AsyncConnection) -> None: ...

    async with box.running():
        with pytest.raises(ConfigurationError, match="a box is running with it"):
            saga.step(late)
    saga.step(late)

    assert [step.name for step in saga.steps] == ["reserve", "late"]


@event("participants.asked", topic="participants", key="order_id")
@dataclass(frozen=True)
class Asked:
    order_id: str


def test_a_request_that_is_an_event_is_refused_at_the_start() -> None:
    """Of several consumers in one service the guard would let the first one handle it, and no other."""
    box, _ = make_box("memory://")
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.request(replies=(Reserved,))
    def ask(state: Order) -> Asked:
        return Asked(state.order_id)

    box.include(saga)
    with pytest.raises(InvalidSetupError, match="it returns the event Asked; let it return a command"):
        box.saga_definitions()


async def test_a_request_that_turns_out_to_be_an_event_fails_its_step() -> None:
    box, _ = make_box("memory://")
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.request(replies=(Reserved,))
    def ask(state: Order) -> object:
        return Asked(state.order_id)

    box.include(saga)
    async with box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        ended = await end_of(box, "o-1")

    assert ended.summary.status == "compensated"
    assert "returned the event Asked; return a command" in ended.journal
