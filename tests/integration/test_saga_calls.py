"""Calls to the outside that cannot be made just now: they are put back, cost no attempt, and others make them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga, Settings
from pillarbox.observe import SagaStepFailed
from pillarbox.saga.journal import decode_journal
from pillarbox.saga.machine import MARGIN
from pillarbox.testing import VirtualClock
from tests.integration.boxes import SETTINGS, Happenings
from tests.integration.conftest import MARIADB, SERVERS
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.saga.store import SagaDetails

pytestmark = pytest.mark.parametrize("store_url", ["sqlite", SERVERS[1], MARIADB], indirect=True)
SOON = timedelta(seconds=20)
ONCE = Retry(attempts=1, immediate=0)
TOO_LONG = MARGIN + timedelta(seconds=1)


@dataclass
class Order:
    order_id: str


def a_box(url: str, clock: VirtualClock) -> tuple[Pillarbox, Happenings]:
    """A box whose time stands still, and what happens in it."""
    box, happenings = Pillarbox("shop", store=url, settings=Settings(clock=clock, migrate_on_open=True)), Happenings()
    box.observe(happenings)
    return box, happenings


async def start(box: Pillarbox, saga: Saga[Order]) -> None:
    async with box.transaction() as tx:
        await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)


async def end_of(box: Pillarbox, saga: str) -> SagaDetails:
    """Wait until a saga has ended."""

    async def ended() -> SagaDetails | None:
        found = await box.sagas.get("o-1", saga=saga)
        return found if found.summary.status.is_ended else None

    found = await wait_until(ended, SOON)
    assert found is not None
    return found


async def test_a_call_that_follows_a_slow_step_is_made(store_url: str) -> None:
    clock = VirtualClock()
    box, happenings = a_box(store_url, clock)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    calls: list[str] = []

    @saga.step
    async def reckon(state: Order, tx: AsyncConnection) -> None:
        clock.advance(TOO_LONG)

    @saga.step(retry=ONCE)
    async def charge(state: Order) -> None:
        calls.append(state.order_id)

    box.include(saga)
    async with box.running():
        await start(box, saga)
        found = await end_of(box, "fulfilment")

    assert found.summary.status == "completed"
    assert calls == ["o-1"]
    assert happenings.of(SagaStepFailed) == []


async def test_a_call_whose_transaction_a_slow_neighbour_kept_open_is_made_and_was_no_attempt(store_url: str) -> None:
    clock = VirtualClock()
    box, happenings = a_box(store_url, clock)
    quick: Saga[Order] = Saga("quick", state=Order)
    slow: Saga[Order] = Saga("slow", state=Order)
    calls: list[str] = []

    @quick.step(retry=ONCE)
    async def charge(state: Order) -> None:
        calls.append(state.order_id)

    @slow.step
    async def reckon(state: Order, tx: AsyncConnection) -> None:
        clock.advance(TOO_LONG)

    box.include(quick)
    box.include(slow)
    async with box:
        for saga in (quick, slow):  # who was started first is due first
            await start(box, saga)
        async with box.running():
            found = await end_of(box, "quick")

    assert found.summary.status == "completed"
    assert calls == ["o-1"]
    assert [one.what for one in decode_journal(found.journal).history] == ["not begun", "done", "completed"]
    assert happenings.of(SagaStepFailed) == []


async def test_who_stops_begins_no_further_call_and_the_next_process_makes_it_at_once(store_url: str) -> None:
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    calls: list[str] = []
    goes_on = asyncio.Event()

    @saga.step(retry=ONCE)
    async def charge(state: Order) -> None:
        calls.append("charge")
        await goes_on.wait()

    @saga.step(retry=ONCE)
    async def print_label(state: Order) -> None:
        calls.append("print_label")

    first, second = (Pillarbox("shop", store=store_url, settings=SETTINGS) for _ in range(2))
    first.include(saga)
    second.include(saga)
    async with first:
        async with first.running():
            await start(first, saga)
            await wait_until(lambda: calls == ["charge"], SOON)
            asyncio.get_running_loop().call_soon(goes_on.set)
        assert calls == ["charge"]

    async with second.running():
        found = await end_of(second, "fulfilment")
    assert found.summary.status == "completed"
    assert calls == ["charge", "print_label"]
