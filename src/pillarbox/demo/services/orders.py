"""The orders service: takes orders and keeps their status."""

from typing import Any

from sqlalchemy import BigInteger, Column, Integer, String, Table, Update, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Handlers, Pillarbox
from pillarbox.demo.messages import (
    OrderCancelled,
    OrderPlaced,
    OrderShipped,
    PaymentCompleted,
    PaymentFailed,
    PaymentRefunded,
    RefundPayment,
    ShippingFailed,
    StockRejected,
)
from pillarbox.demo.services.defaults import RETRY, metadata

orders = Table(
    "demo_orders",
    metadata,
    Column("order_id", String(64), primary_key=True),
    Column("customer", String(200), nullable=False),
    Column("priority", String(10), nullable=False),
    Column("sku", String(64), nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("total_cents", BigInteger, nullable=False),
    Column("status", String(10), nullable=False),
)

PRECEDING: dict[str, tuple[str, ...]] = {
    "paid": ("placed",),
    "shipped": ("placed", "paid"),
    "refunding": ("placed", "paid"),
    "cancelled": ("placed", "paid", "refunding"),
}
"""Which status may come before which: events of different services can overtake each other."""

UNFULFILLED = "it cannot be fulfilled, and nothing is charged"

handlers = Handlers(retry=RETRY)


async def place(box: Pillarbox, order: OrderPlaced, *, tx: AsyncConnection) -> None:
    """Write the order and say so: both happen when ``tx`` commits, or neither."""
    await tx.execute(orders.insert(), row_of(order))
    await box.publish(order, tx=tx)


def row_of(order: OrderPlaced) -> dict[str, Any]:
    """Return a new order's row."""
    return {
        "order_id": order.order_id,
        "customer": order.customer,
        "priority": order.priority,
        "sku": order.sku,
        "quantity": order.quantity,
        "total_cents": order.total_cents,
        "status": "placed",
    }


@handlers.on(PaymentCompleted, OrderShipped, name="track-order")
async def track_order(progress: PaymentCompleted | OrderShipped, tx: AsyncConnection) -> None:
    """Move the order forward; what comes too late for its status changes nothing."""
    await tx.execute(moved(progress.order_id, "paid" if isinstance(progress, PaymentCompleted) else "shipped"))


@handlers.on(PaymentFailed, StockRejected, ShippingFailed, PaymentRefunded, name="compensate-order")
async def compensate_order(
    setback: PaymentFailed | StockRejected | ShippingFailed | PaymentRefunded, tx: AsyncConnection
) -> RefundPayment | OrderCancelled:
    """Undo what was done for an order that cannot be fulfilled, then cancel it."""
    if isinstance(setback, (StockRejected, ShippingFailed)):
        await tx.execute(moved(setback.order_id, "refunding"))
        return RefundPayment(setback.order_id, setback.reason)
    await tx.execute(moved(setback.order_id, "cancelled"))
    reason = setback.reason if isinstance(setback, PaymentFailed) else UNFULFILLED
    return OrderCancelled(setback.order_id, reason)


def moved(order_id: str, status: str) -> Update:
    """Return the update that moves an order to ``status``, if its present one may come before it."""
    guard = orders.c.status.in_(PRECEDING[status])
    return update(orders).where(orders.c.order_id == order_id, guard).values(status=status)
