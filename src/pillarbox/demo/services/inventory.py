"""The inventory service: sets goods aside for orders that have been paid."""

from sqlalchemy import Column, Integer, String, Table, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Handlers
from pillarbox.demo.messages import (
    PaymentCompleted,
    ReleaseStock,
    ReserveStock,
    ShippingFailed,
    StockRejected,
    StockReleased,
    StockReserved,
)
from pillarbox.demo.services.defaults import RETRY, metadata

stock = Table(
    "demo_stock",
    metadata,
    Column("sku", String(64), primary_key=True),
    Column("delivered", Integer, nullable=False),
    Column("on_hand", Integer, nullable=False),
)

reservations = Table(
    "demo_reservations",
    metadata,
    Column("reservation_id", Integer, primary_key=True, autoincrement=True),
    Column("order_id", String(64), nullable=False, index=True),
    Column("sku", String(64), nullable=False),
    Column("quantity", Integer, nullable=False),
)

handlers = Handlers(retry=RETRY)
asked = Handlers(retry=RETRY)
"""What the service does when a saga asks it."""


@handlers.on(PaymentCompleted, name="reserve-stock", concurrency=1)
async def reserve_stock(payment: PaymentCompleted, tx: AsyncConnection) -> StockReserved | StockRejected:
    """Take the goods off the shelf if there are enough.

    Orders share the rows of the shelves, which a run of many orders locks in no particular order: in one lane, runs do
    not wait for each other in a circle.
    """
    return await _reserved(payment, tx)


@handlers.on(ShippingFailed, name="release-stock", concurrency=1)
async def release_stock(setback: ShippingFailed, tx: AsyncConnection) -> StockReleased:
    """Put back what is set aside for the order."""
    return await _released(setback.order_id, tx)


@asked.on(ReserveStock, ReleaseStock, name="keep-stock", concurrency=1)
async def keep_stock(
    wish: ReserveStock | ReleaseStock, tx: AsyncConnection
) -> StockReserved | StockRejected | StockReleased:
    """Reserve or release: in one consumer, since both come through one queue, in the order in which they were sent."""
    return await (_reserved(wish, tx) if isinstance(wish, ReserveStock) else _released(wish.order_id, tx))


async def _reserved(wish: PaymentCompleted | ReserveStock, tx: AsyncConnection) -> StockReserved | StockRejected:
    taken = await tx.execute(
        update(stock)
        .where(stock.c.sku == wish.sku, stock.c.on_hand >= wish.quantity)
        .values(on_hand=stock.c.on_hand - wish.quantity)
        .returning(stock.c.on_hand)
    )
    if taken.first() is None:
        return StockRejected(wish.order_id, f"{wish.sku} is sold out")
    await tx.execute(
        reservations.insert(),
        {"order_id": wish.order_id, "sku": wish.sku, "quantity": wish.quantity},
    )
    return StockReserved(wish.order_id, wish.sku, wish.quantity)


async def _released(order_id: str, tx: AsyncConnection) -> StockReleased:
    """Put back what is set aside for an order, which may be nothing."""
    of_order = reservations.c.order_id == order_id
    reserved = (await tx.execute(select(reservations.c.sku, reservations.c.quantity).where(of_order))).all()
    await tx.execute(delete(reservations).where(of_order))
    for sku, quantity in reserved:
        await tx.execute(update(stock).where(stock.c.sku == sku).values(on_hand=stock.c.on_hand + quantity))
    return StockReleased(order_id, sum(quantity for _, quantity in reserved))
