"""The orders service as an orchestrator: one saga for each order, which asks the other services step by step.

It takes the place of what the services do when they react to each other's events; what each of them does is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Saga, SagaContext, StepFailed
from pillarbox.demo.messages import (
    ChargePayment,
    OrderCancelled,
    OrderPlaced,
    OrderShipped,
    ParcelSent,
    PaymentCompleted,
    PaymentFailed,
    PaymentRefunded,
    RefundPayment,
    ReleaseStock,
    ReserveStock,
    SendParcel,
    ShippingFailed,
    StockRejected,
    StockReleased,
    StockReserved,
)
from pillarbox.demo.services.orders import UNFULFILLED, moved, orders, row_of


@dataclass
class Fulfilment:
    """What the steps know of an order, and of each other."""

    order: OrderPlaced
    tracking: str = ""


fulfilment = Saga("fulfilment", state=Fulfilment)


async def begin(box: Pillarbox, order: OrderPlaced, *, tx: AsyncConnection) -> None:
    """Begin an order's saga when ``tx`` commits."""
    await box.sagas.start(fulfilment, Fulfilment(order), saga_id=order.order_id, tx=tx)


@fulfilment.step
async def create_order(state: Fulfilment, tx: AsyncConnection) -> None:
    """Write the order."""
    await tx.execute(orders.insert(), row_of(state.order))


@create_order.compensate
async def cancel_order(state: Fulfilment, tx: AsyncConnection, ctx: SagaContext) -> None:
    """Cancel it, last of all, and say so."""
    await tx.execute(moved(state.order.order_id, "cancelled"))
    ctx.publish(OrderCancelled(state.order.order_id, UNFULFILLED))


@fulfilment.request(replies=(PaymentCompleted, PaymentFailed))
def charge_payment(state: Fulfilment) -> ChargePayment:
    """Have the card charged."""
    order = state.order
    return ChargePayment(order.order_id, order.customer, order.sku, order.quantity, order.total_cents)


@charge_payment.on(PaymentFailed)
def declined(state: Fulfilment, reply: PaymentFailed) -> None:
    """Turn round."""
    raise StepFailed(reply.reason)


@charge_payment.compensate(replies=(PaymentRefunded,))
def refund_payment(state: Fulfilment) -> RefundPayment:
    """Have it given back."""
    return RefundPayment(state.order.order_id, UNFULFILLED)


@fulfilment.request(replies=(StockReserved, StockRejected))
def reserve_stock(state: Fulfilment) -> ReserveStock:
    """Have the goods set aside."""
    return ReserveStock(state.order.order_id, state.order.sku, state.order.quantity)


@reserve_stock.on(StockRejected)
def sold_out(state: Fulfilment, reply: StockRejected) -> None:
    """Turn round."""
    raise StepFailed(reply.reason)


@reserve_stock.compensate(replies=(StockReleased,))
def release_stock(state: Fulfilment) -> ReleaseStock:
    """Have them put back."""
    return ReleaseStock(state.order.order_id)


@fulfilment.request(replies=(ParcelSent, ShippingFailed), pivot=True)
def send_parcel(state: Fulfilment) -> SendParcel:
    """Have the parcel sent: the point of no return."""
    return SendParcel(state.order.order_id, state.order.sku, state.order.quantity)


@send_parcel.on(ParcelSent)
def sent(state: Fulfilment, reply: ParcelSent) -> None:
    """Remember the tracking number."""
    state.tracking = reply.tracking


@send_parcel.on(ShippingFailed)
def too_heavy(state: Fulfilment, reply: ShippingFailed) -> None:
    """Turn round, once more."""
    raise StepFailed(reply.reason)


@fulfilment.step
async def close_order(state: Fulfilment, tx: AsyncConnection, ctx: SagaContext) -> None:
    """Close the order and say so."""
    await tx.execute(moved(state.order.order_id, "shipped"))
    ctx.publish(OrderShipped(state.order.order_id, state.tracking))


SAYS: Mapping[tuple[str, str, str], type[object]] = {
    ("sent", "charge_payment", "do"): ChargePayment,
    ("sent", "charge_payment", "undo"): RefundPayment,
    ("sent", "reserve_stock", "do"): ReserveStock,
    ("sent", "reserve_stock", "undo"): ReleaseStock,
    ("sent", "send_parcel", "do"): SendParcel,
    ("done", "create_order", "undo"): OrderCancelled,
    ("done", "close_order", "do"): OrderShipped,
}
"""By what stands in a saga's history (what, step, direction): the message that was published with it."""
