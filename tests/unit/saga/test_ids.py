"""What names a saga: of one id there is one, so an id is kept as it is, or refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Saga, SagaContext, command, event
from pillarbox.errors import ConfigurationError
from tests.unit.saga.standing import stands


@dataclass
class Order:
    order_id: str


@pytest.mark.parametrize("saga_id", ["", "o" * 513, "o-1\0", "o-1\0a", "\ud800", 7, None])
async def test_an_id_that_would_not_be_kept_as_it_is_is_refused(saga_id: str) -> None:
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)

    @fulfil.step
    async def pay(state: Order) -> None: ...

    box.include(fulfil)
    async with box, box.transaction() as tx:
        await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)
        with pytest.raises(ConfigurationError, match="without NUL"):
            await box.sagas.start(fulfil, Order("o-1"), saga_id=saga_id, tx=tx)


@pytest.mark.parametrize("saga_id", ["o" * 512, "ü-\x1b[31m", "line\nbreak", "--help", " ", "💶", "O-1"])
async def test_any_other_text_is_an_id_of_its_own(saga_id: str) -> None:
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)

    @fulfil.step
    async def pay(state: Order) -> None: ...

    box.include(fulfil)
    async with box:
        async with box.transaction() as tx:
            await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)
            assert await box.sagas.start(fulfil, Order(saga_id), saga_id=saga_id, tx=tx)
        found = await box.sagas.get(saga_id)

    assert found.summary.saga_id == saga_id


@command("ids.ship", queue="ids", key="order_id")
@dataclass(frozen=True)
class Ship:
    order_id: str


@event("ids.shipped", key="order_id")
@dataclass(frozen=True)
class Shipped:
    order_id: str


@pytest.mark.parametrize("saga_id", ["line\nbreak", "\x1b[31m", "o" * 512, "💶"])
async def test_a_saga_of_any_id_publishes_asks_and_awaits_its_child(saga_id: str) -> None:
    """No header takes a line break; the id stands in several."""
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)
    deliver = Saga("deliver", state=Order)

    @deliver.step
    async def pack(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
        ctx.publish(Shipped("o-1"))

    @fulfil.child(deliver)
    def delivery(state: Order) -> Order:
        return state

    @fulfil.request(replies=(Shipped,))
    def ship(state: Order) -> Ship:
        return Ship("o-1")

    @box.on(Ship, name="ship")
    async def shipped(wish: Ship, tx: AsyncConnection) -> Shipped:
        return Shipped(wish.order_id)

    @box.on(Shipped, name="note")
    async def noted(one: Shipped, tx: AsyncConnection) -> None: ...

    box.include(fulfil)
    box.include(deliver)
    async with box, box.running():
        async with box.transaction() as tx:
            await box.sagas.start(fulfil, Order("o-1"), saga_id=saga_id, tx=tx)
        await stands(box, "fulfil", saga_id, "completed")
