"""The inventory service: sets goods aside for orders that have been paid."""

from sqlalchemy import Column, Integer, String, Table, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Handlers
from pillarbox.demo.messages import PaymentCompleted, StockRejected, StockReserved
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


@handlers.on(PaymentCompleted, name="reserve-stock", concurrency=1)
async def reserve_stock(payment: PaymentCompleted, tx: AsyncConnection) -> StockReserved | StockRejected:
    """Take the goods off the shelf if there are enough.

    Orders share the rows of the shelves, which a run of many orders locks in no particular order: in one lane, runs do
    not wait for each other in a circle.
    """
    taken = await tx.execute(
        update(stock)
        .where(stock.c.sku == payment.sku, stock.c.on_hand >= payment.quantity)
        .values(on_hand=stock.c.on_hand - payment.quantity)
        .returning(stock.c.on_hand)
    )
    if taken.first() is None:
        return StockRejected(payment.order_id, f"{payment.sku} is sold out")
    await tx.execute(
        reservations.insert(),
        {"order_id": payment.order_id, "sku": payment.sku, "quantity": payment.quantity},
    )
    return StockReserved(payment.order_id, payment.sku, payment.quantity)
