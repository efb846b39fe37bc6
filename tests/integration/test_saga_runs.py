"""Steps that follow each other share a transaction, and whose fault it is when its commit fails."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Retry, Saga, SagaContext
from pillarbox.saga.journal import Direction, decode_journal
from tests.integration.boxes import create_tables, make_box, note, noted
from tests.waiting import wait_until

if TYPE_CHECKING:
    import pytest

    from pillarbox import Pillarbox
    from pillarbox.saga.store import SagaDetails

SOON = timedelta(seconds=20)
TWICE = Retry(attempts=2, immediate=0, first=timedelta(0))
TRANSACTION = text("SELECT CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)")
CREATE = text("CREATE TABLE taken (seat INTEGER, CONSTRAINT once UNIQUE (seat) DEFERRABLE INITIALLY DEFERRED)")
TAKE = text("INSERT INTO taken (seat) VALUES (:seat)")


@dataclass
class Order:
    order_id: str
    seat: int = 0


async def start(box: Pillarbox, saga: Saga[Order], *orders: Order) -> None:
    async with box.transaction() as tx:
        await box.sagas.start_all(saga, {order.order_id: order for order in orders}, tx=tx)


async def end_of(box: Pillarbox, saga_id: str) -> SagaDetails:
    async def ended() -> SagaDetails | None:
        found = await box.sagas.get(saga_id)
        return found if found.summary.status in ("completed", "compensated", "needs_attention") else None

    found = await wait_until(ended, SOON)
    assert found is not None
    return found


def failures(found: SagaDetails) -> list[tuple[str, str]]:
    """What failed, in the order of history."""
    return [
        (one.step, one.what)
        for one in decode_journal(found.journal).history
        if one.what in ("failed", "given up", "refused") and one.direction is Direction.DO
    ]


def looking(saga: Saga[Order], *, steps: int) -> dict[str, list[int]]:
    """Give ``saga`` so many local steps; return the transactions that they saw, of each order."""
    seen: dict[str, list[int]] = {}

    async def look(state: Order, tx: AsyncConnection) -> None:
        seen.setdefault(state.order_id, []).append((await tx.execute(TRANSACTION)).scalar_one())

    for number in range(steps):
        saga.step(name=f"step-{number}")(look)
    return seen


async def test_local_steps_in_a_row_share_one_transaction(postgresql_url: str) -> None:
    box, _ = make_box(postgresql_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    seen = looking(saga, steps=4)
    box.include(saga)
    async with box.running():
        await start(box, saga, *(Order(f"o-{number}") for number in range(5)))
        for number in range(5):
            assert (await end_of(box, f"o-{number}")).summary.status == "completed"

    assert [len(set(ids)) for ids in seen.values()] == [1] * 5
    assert [len(ids) for ids in seen.values()] == [4] * 5


async def test_in_a_transaction_that_is_open_for_long_no_further_step_begins_and_all_get_on(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillarbox.saga.orchestrator.LONGEST_TURN_S", 0.0)  # longer than that it always is
    box, _ = make_box(postgresql_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    seen = looking(saga, steps=3)
    box.include(saga)
    async with box.running():
        await start(box, saga, Order("o-1"), Order("o-2"))
        for saga_id in ("o-1", "o-2"):
            assert (await end_of(box, saga_id)).summary.status == "completed"

    assert [len(set(ids)) for ids in seen.values()] == [3, 3]


async def test_a_commit_that_fails_is_the_failure_of_the_step_whose_fault_it_is(postgresql_url: str) -> None:
    box, _ = make_box(postgresql_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step
    async def first(state: Order, tx: AsyncConnection) -> None:
        await note(tx, f"first {state.order_id}")

    @first.compensate
    async def undo_first(state: Order, tx: AsyncConnection) -> None:
        await note(tx, f"undo first {state.order_id}")

    @saga.step(retry=TWICE)
    async def take(state: Order, tx: AsyncConnection) -> None:
        await tx.execute(TAKE, {"seat": state.seat})

    @saga.step
    async def last(state: Order, tx: AsyncConnection) -> None:
        await note(tx, f"last {state.order_id}")

    box.include(saga)
    async with box.running():
        await create_tables(box)
        async with box.transaction() as tx:
            await tx.execute(CREATE)
            await tx.execute(TAKE, {"seat": 7})
        orders = [Order(f"o-{number}", seat=number) for number in range(10)]
        await start(box, saga, *orders)
        found = {order.order_id: await end_of(box, order.order_id) for order in orders}

        assert {name for name, one in found.items() if one.summary.status != "completed"} == {"o-7"}
        assert found["o-7"].summary.status == "compensated"
        assert failures(found["o-7"]) == [("take", "failed"), ("take", "given up")]
        expected = [f"first o-{number}" for number in range(10)]
        expected += [f"last o-{number}" for number in range(10) if number != 7]
        assert sorted(await noted(box)) == sorted([*expected, "undo first o-7"])


async def test_calls_that_come_back_together_find_whose_fault_a_failed_commit_is(postgresql_url: str) -> None:
    box, _ = make_box(postgresql_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    together = asyncio.Barrier(3)

    @saga.step
    async def ask(state: Order, ctx: SagaContext) -> None:
        if ctx.attempt == 1:
            await together.wait()

    @saga.step(retry=TWICE)
    async def take(state: Order, tx: AsyncConnection) -> None:
        await tx.execute(TAKE, {"seat": state.seat})

    box.include(saga)
    async with box.running():
        async with box.transaction() as tx:
            await tx.execute(CREATE)
            await tx.execute(TAKE, {"seat": 1})
        orders = [Order(f"o-{number}", seat=number) for number in range(3)]
        await start(box, saga, *orders)
        found = {order.order_id: (await end_of(box, order.order_id)) for order in orders}

    assert {name: one.summary.status.value for name, one in found.items()} == {
        "o-0": "completed",
        "o-1": "compensated",
        "o-2": "completed",
    }
    assert failures(found["o-1"]) == [("take", "failed"), ("take", "given up")]
