"""A transaction that has no room for another step: what is left is done in the next one, and nothing is lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga
from pillarbox.saga import orchestrator, resolve
from pillarbox.saga.definition import Kind
from pillarbox.saga.journal import decode_journal
from tests.unit.saga.standing import stands

if TYPE_CHECKING:
    import pytest


@dataclass
class Order:
    order_id: str
    paid: bool = False
    label: str = ""


async def test_a_call_beside_a_local_step_is_made_though_there_was_no_room_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orchestrator, "LONGEST_TURN_S", -1.0)  # each transaction has room for one step
    box, fulfil, calls = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order), list[str]()

    @fulfil.step
    async def write(state: Order, tx: AsyncConnection) -> None:
        calls.append("write")

    @fulfil.step(parallel="both")
    async def pay(state: Order, tx: AsyncConnection) -> None:
        state.paid = True
        calls.append("pay")

    @fulfil.step(parallel="both", retry=Retry(attempts=1))
    async def label(state: Order) -> None:
        assert not state.paid
        state.label = "l-1"
        calls.append("label")

    box.include(fulfil)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)
        ended = await stands(box, "fulfil", "o-1", "completed")

    assert sorted(calls) == ["label", "pay", "write"]
    assert sorted(entry.step for entry in decode_journal(ended.journal).history if entry.what == "done") == [
        "label",
        "pay",
        "write",
    ]


async def test_a_local_step_that_hangs_holds_others_up_no_longer_than_it_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve.DEFAULT_TIMEOUTS[Kind.LOCAL] == timedelta(seconds=30)
    briefly = {**resolve.DEFAULT_TIMEOUTS, Kind.LOCAL: timedelta(milliseconds=20)}
    monkeypatch.setattr(resolve, "DEFAULT_TIMEOUTS", briefly)
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)

    @fulfil.step(retry=Retry(attempts=2, immediate=1))
    async def pay(state: Order, tx: AsyncConnection) -> None:
        if state.order_id == "o-1":
            await asyncio.Event().wait()

    box.include(fulfil)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start_all(fulfil, {name: Order(name) for name in ("o-1", "o-2")}, tx=tx)

        await stands(box, "fulfil", "o-2", "completed")
        await stands(box, "fulfil", "o-1", "compensated")
