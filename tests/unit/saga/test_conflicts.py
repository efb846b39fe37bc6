"""A database that asks for the transaction of a saga again: that is no attempt, and holds nobody else up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga, SagaContext, command, event
from pillarbox.errors import ConflictError
from pillarbox.saga.journal import decode_journal
from pillarbox.saga.verdicts import CONFLICTS_IN_A_ROW
from tests.unit.saga.standing import stands

AT_ONCE = Retry(attempts=2, immediate=1)


@dataclass
class Order:
    order_id: str


@command("conflicts.ship", queue="conflicts", key="order_id")
@dataclass(frozen=True)
class Ship:
    order_id: str


@event("conflicts.shipped", key="order_id")
@dataclass(frozen=True)
class Shipped:
    order_id: str


class DeadlockError(Exception):
    """As drivers of PostgreSQL raise it."""

    sqlstate = "40P01"


def deadlock() -> OperationalError:
    """A transaction that the database has chosen to be the victim."""
    return OperationalError("update", {}, DeadlockError("deadlock detected"))


async def start(box: Pillarbox, saga: Saga[Order], *saga_ids: str) -> None:
    async with box.transaction() as tx:
        await box.sagas.start_all(saga, {saga_id: Order(saga_id) for saga_id in saga_ids}, tx=tx)


def told(journal: str) -> list[str]:
    return [entry.what for entry in decode_journal(journal).history]


async def test_a_step_whose_transaction_is_a_victim_is_called_again_and_no_attempt_is_counted() -> None:
    box, fulfil, calls = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order), Counter[str]()

    @fulfil.step(retry=AT_ONCE)
    async def write(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        await tx.execute(text("select 1"))
        calls[state.order_id] += 1
        assert ctx.attempt == 1
        if state.order_id == "bad" and calls["bad"] <= 2:
            raise deadlock()

    box.include(fulfil)
    async with box, box.running():
        await start(box, fulfil, "bad", "good")
        bad = await stands(box, "fulfil", "bad", "completed")
        await stands(box, "fulfil", "good", "completed")

    assert told(bad.journal) == ["done", "completed"]
    assert calls["bad"] == 3


@pytest.mark.parametrize("touches", [True, False])
async def test_a_step_that_is_a_victim_each_time_fails_at_last_and_others_move_on(touches: bool) -> None:
    box, fulfil, calls = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order), Counter[int]()

    @fulfil.step(retry=AT_ONCE)
    async def write(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        if state.order_id == "bad":
            calls[ctx.attempt] += 1
            if touches:
                await tx.execute(text("select 1"))
                raise deadlock()
            raise ConflictError("somebody else was quicker")

    box.include(fulfil)
    async with box, box.running():
        await start(box, fulfil, "bad", "good")
        await stands(box, "fulfil", "good", "completed")
        bad = await stands(box, "fulfil", "bad", "compensated")

    assert told(bad.journal) == ["failed", "given up", "compensating", "compensated"]
    assert calls == {1: CONFLICTS_IN_A_ROW + 1, 2: CONFLICTS_IN_A_ROW + 1}


@pytest.mark.parametrize(
    ("error", "story"),
    [
        (deadlock(), ["sent", "done", "completed"]),
        (ConnectionError("it is away"), ["sent", "failed", "done", "completed"]),
    ],
    ids=["conflict", "transient"],
)
async def test_a_reaction_that_failed_for_now_is_called_again_and_nothing_is_undone(
    error: Exception, story: list[str]
) -> None:
    box, fulfil, calls = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order), list[str]()

    @fulfil.request(replies=(Shipped,))
    def ship(state: Order) -> Ship:
        return Ship(state.order_id)

    @ship.on(Shipped)
    async def shipped(state: Order, reply: Shipped, tx: AsyncConnection) -> None:
        await tx.execute(text("select 1"))
        calls.append(reply.order_id)
        if len(calls) == 1:
            raise error

    @box.on(Ship, name="ship")
    async def answer(wish: Ship, tx: AsyncConnection) -> Shipped:
        return Shipped(wish.order_id)

    box.include(fulfil)
    async with box, box.running():
        await start(box, fulfil, "o-1")
        ended = await stands(box, "fulfil", "o-1", "completed", "compensated")

    assert told(ended.journal) == story
    assert len(calls) == 2
