"""A command of a saga that its participant cannot handle: what undoes it passes, and later it is not done any more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Retry, Saga, command, event
from pillarbox.observe import MessageDead, MessageHeld
from tests.integration.boxes import make_box
from tests.integration.test_saga_runs import end_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox

SOON = timedelta(seconds=1)


@dataclass
class Order:
    order_id: str


@command("dead.reserve", queue="dead-stock", key="order_id")
@dataclass(frozen=True)
class Reserve:
    order_id: str


@command("dead.release", queue="dead-stock", key="order_id")
@dataclass(frozen=True)
class Release:
    order_id: str


@event("dead.answered", key="order_id")
@dataclass(frozen=True)
class Answered:
    order_id: str


def a_saga() -> Saga[Order]:
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.request(replies=(Answered,), timeout=SOON)
    def reserve(state: Order) -> Reserve:
        return Reserve(state.order_id)

    @reserve.compensate(replies=(Answered,), timeout=SOON, retry=Retry(attempts=1))
    def release(state: Order) -> Release:
        return Release(state.order_id)

    return saga


@pytest.mark.parametrize("attempts", [1, 2])
async def test_the_undo_of_a_command_that_is_dead_passes_it(store_url: str, attempts: int) -> None:
    box, happenings = make_box(store_url)
    saga, called = a_saga(), list[str]()

    @box.on(Reserve, Release, name="stock", retry=Retry(attempts=attempts, immediate=0, first=timedelta(0)))
    async def stock(wish: Reserve | Release, tx: AsyncConnection) -> Answered:
        called.append(type(wish).__name__)
        if isinstance(wish, Reserve):
            raise ValueError("the shelf has fallen over")
        return Answered(wish.order_id)

    box.include(saga)
    async with box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        ended = await end_of(box, "o-1")
        (dead,) = await happenings.until(MessageDead)
        (letter,) = await box.dead_letters.list()
        await box.dead_letters.replay(letter.id, by="ann")
        await wait_until(lambda: _nothing_held(box))
        assert await box.dead_letters.list() == ()

    assert ended.summary.status == "compensated"
    assert not dead.holds_key
    assert called == ["Reserve"] * attempts + ["Release"], "after its undo nothing is done"


async def _nothing_held(box: Pillarbox) -> bool:
    return await box.held.list() == ()


async def test_who_says_so_holds_the_key_and_the_saga_needs_attention() -> None:
    box, happenings = make_box("memory://")
    saga = a_saga()

    @box.on(Reserve, Release, name="stock", retry=Retry(attempts=1), when_dead="hold-key")
    async def stock(wish: Reserve | Release, tx: AsyncConnection) -> Answered:
        raise ValueError("the shelf has fallen over")

    box.include(saga)
    async with box.running():
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        ended = await end_of(box, "o-1")
        await happenings.until(MessageHeld)

    assert ended.summary.status == "needs_attention"
