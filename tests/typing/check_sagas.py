"""How a program that declares sagas types; checked, never run.

An ``ignore`` here is an error that the checkers must find: one that they no longer find is reported as needless.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from dataclasses import dataclass
from datetime import timedelta
from typing import assert_type

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga, SagaContext, StepFailed, command, event
from pillarbox.saga import ResourceLocked


@dataclass
class Order:
    order_id: str
    paid: bool = False


@command("stock.reserve", queue="stock", key="order_id")
@dataclass(frozen=True)
class ReserveStock:
    order_id: str


@event("stock.reserved", key="order_id")
@dataclass(frozen=True)
class StockReserved:
    order_id: str


@event("stock.rejected", key="order_id")
@dataclass(frozen=True)
class StockRejected:
    order_id: str
    reason: str


fulfilment = Saga("fulfilment", state=Order, version=2, upcasters={1: lambda state: {**state, "paid": False}})
assert_type(fulfilment, Saga[Order])
delivery = Saga("delivery", state=Order)


@fulfilment.step
async def charge(state: Order, tx: AsyncConnection, ctx: SagaContext) -> None:
    state.paid = True
    assert_type(ctx.attempt, int)
    assert_type(ctx.idempotency_key("card"), str)
    try:
        await ctx.lock(f"order:{state.order_id}", tx=tx, expires_after=timedelta(minutes=5))
    except ResourceLocked as locked:
        raise StepFailed(str(locked)) from locked


@charge.compensate(retry=Retry(attempts=100))
def give_back(state: Order, tx: Connection) -> None:
    state.paid = False


@fulfilment.request(replies=(StockReserved, StockRejected), timeout=timedelta(minutes=1))
def reserve(state: Order) -> ReserveStock:
    return ReserveStock(state.order_id)


@reserve.on(StockRejected)
def rejected(state: Order, reply: StockRejected) -> None:
    raise StepFailed(reply.reason)


@fulfilment.child(delivery, timeout=timedelta(days=2))
def deliver(state: Order) -> Order:
    return Order(state.order_id)


@fulfilment.child(delivery)  # type: ignore[arg-type]
def deliver_nothing(state: Order) -> str:
    return state.order_id


async def start(box: Pillarbox, tx: AsyncConnection) -> None:
    box.include(fulfilment)
    box.include(delivery)
    await box.sagas.start(fulfilment, Order("o-1"), saga_id="o-1", tx=tx)
    await box.sagas.start(fulfilment, "o-1", saga_id="o-1", tx=tx)  # type: ignore[misc]
    await box.sagas.start_all(fulfilment, {"o-1": Order("o-1")}, tx=tx)
    found = await box.sagas.get("o-1")
    assert_type(found.summary.version, int)
    await box.sagas.skip("o-1", step="charge", reason="paid in cash", by="anna")
