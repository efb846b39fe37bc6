"""The shipping service: hands parcels to the carrier."""

from sqlalchemy import Column, Integer, String, Table
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, Handlers
from pillarbox.demo.messages import OrderShipped, StockReserved
from pillarbox.demo.services.defaults import RETRY, metadata

shipments = Table(
    "demo_shipments",
    metadata,
    Column("shipment_id", Integer, primary_key=True, autoincrement=True),
    Column("order_id", String(64), nullable=False, index=True),
    Column("tracking", String(64), nullable=False),
)

handlers = Handlers(retry=RETRY)


@handlers.on(StockReserved, name="ship-order")
async def ship_order(reserved: StockReserved, tx: AsyncConnection, ctx: Context) -> OrderShipped:
    """Ship what was set aside; the tracking number comes from the message, so a second attempt has the same."""
    tracking = f"PB-{ctx.message_id[-12:].upper()}"
    await tx.execute(shipments.insert(), {"order_id": reserved.order_id, "tracking": tracking})
    return OrderShipped(reserved.order_id, tracking)
