"""What has come for a saga and cannot be written down: it waits, and others move on."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga, SagaContext
from pillarbox.errors import DecodeError
from pillarbox.observe import Event, Observer, SagaUnreadable, WorkerFaltered
from pillarbox.relational.saga_tables import saga_instances
from pillarbox.saga import machine, orchestrator
from pillarbox.saga.journal import decode_journal
from tests.unit.saga.standing import stands
from tests.waiting import wait_until

REFUSES = """
    CREATE TRIGGER refuses BEFORE UPDATE ON pillarbox_saga_instances
    WHEN NEW.journal LIKE '%poison%' BEGIN SELECT RAISE(ABORT, 'it cannot be stored'); END
"""
NO_TIME = timedelta(0)


@dataclass
class Order:
    order_id: str


class Told(Observer):
    """Keeps what it is told of sagas that wait, and counts how often the orchestrator ended."""

    def __init__(self) -> None:
        self.waits: list[SagaUnreadable] = []
        self.faltered = Counter[str]()

    def notice(self, event: Event, /) -> None:
        if isinstance(event, SagaUnreadable):
            self.waits.append(event)
        if isinstance(event, WorkerFaltered):
            self.faltered[event.worker] += 1


async def test_what_came_of_a_call_and_cannot_be_written_down_is_dropped_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "MARGIN", NO_TIME)  # the time of a call is over soon
    monkeypatch.setattr(orchestrator, "UNREADABLE_AGAIN", timedelta(milliseconds=100))
    box, fulfil, told = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order), Told()

    @fulfil.step(timeout=timedelta(milliseconds=50), retry=Retry(attempts=2, immediate=1))
    async def pay(state: Order, ctx: SagaContext) -> None:
        if state.order_id == "bad" and ctx.attempt == 1:
            raise ValueError("poison")

    box.include(fulfil)
    box.observe(told)
    async with box:
        async with box.transaction() as tx:
            await tx.execute(text(REFUSES))
        async with box.running():
            async with box.transaction() as tx:
                await box.sagas.start_all(fulfil, {name: Order(name) for name in ("bad", "good")}, tx=tx)
            await stands(box, "fulfil", "good", "completed")
            bad = await stands(box, "fulfil", "bad", "completed")

    assert [entry.what for entry in decode_journal(bad.journal).history] == ["failed", "done", "completed"]
    assert [(event.saga_id, "cannot be stored" in event.error) for event in told.waits] == [("bad", True)]
    assert not told.faltered


async def test_a_journal_of_a_release_that_knows_more_waits_as_it_is_and_holds_nobody_up() -> None:
    box, fulfil, told = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order), Told()
    journal = '{"do":{"pay":{"state":"paused"}},"secret":"s"}'

    @fulfil.step
    async def pay(state: Order) -> None: ...

    box.include(fulfil)
    box.observe(told)
    async with box:
        async with box.transaction() as tx:
            await box.sagas.start(fulfil, Order("newer"), saga_id="newer", tx=tx)
            await tx.execute(update(saga_instances).values(journal=journal))
            await box.sagas.start(fulfil, Order("ours"), saga_id="ours", tx=tx)
        async with box.running():
            await stands(box, "fulfil", "ours", "completed")
            newer = await box.sagas.get("newer")
            with pytest.raises(DecodeError, match="paused"):
                await box.sagas.retry("newer", reason="let us see", by="ops")

    assert (newer.summary.status, newer.journal) == ("running", journal)
    assert [event.saga_id for event in told.waits] == ["newer"]
    assert not told.faltered


class Weighed(msgspec.Struct):
    order_id: str
    grams: float = float("nan")  # which cannot be written down


async def test_a_state_that_its_upcaster_makes_unfit_to_be_written_down_waits_and_holds_nobody_up() -> None:
    box, told = Pillarbox("shop", store="memory://"), Told()
    older = Saga("fulfil", state=Weighed)
    newer = Saga("fulfil", state=Weighed, version=2, upcasters={1: lambda state: {"order_id": state["order_id"]}})

    async def pay(state: Weighed, tx: AsyncConnection) -> None: ...

    older.step(pay)
    newer.step(pay)
    box.include(newer)
    box.observe(told)
    async with box:
        async with box.transaction() as tx:
            await box.sagas.start(older, Weighed("older", 1.0), saga_id="older", tx=tx)
            await box.sagas.start(newer, Weighed("newer", 1.0), saga_id="newer", tx=tx)
        async with box.running():
            await stands(box, "fulfil", "newer", "completed")
            waits = await box.sagas.get("older")

    assert (waits.summary.status, waits.summary.version) == ("running", 1)
    assert [(one.saga_id, "grams" in one.error) for one in told.waits] == [("older", True)]
    assert not told.faltered


async def test_a_saga_that_a_newer_release_took_over_during_a_call_is_left_to_it_as_it_is() -> None:
    box, fulfil, told = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order), Told()
    is_called, may_return = asyncio.Event(), asyncio.Event()
    row = saga_instances.c

    @fulfil.step
    async def pay(state: Order) -> None:
        is_called.set()
        await may_return.wait()

    box.include(fulfil)
    box.observe(told)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)
        await is_called.wait()
        async with box.transaction() as tx:
            taken = {"version": 2, "definition": "shop/fulfil@2", "due_at": 7, "serial": row.serial + 1}
            await tx.execute(update(saga_instances).values(taken))
        may_return.set()
        await wait_until(lambda: bool(told.waits), timedelta(seconds=20))
        async with box.transaction() as tx:
            due_at, version = (await tx.execute(select(row.due_at, row.version))).one()

    assert (due_at, version) == (7, 2), "it is due at once, for who runs its version"
