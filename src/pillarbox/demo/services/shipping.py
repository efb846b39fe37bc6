"""The shipping service: hands parcels to the carrier."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Column, Integer, String, Table
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, Handlers
from pillarbox.demo.messages import OrderShipped, ParcelSent, SendParcel, ShippingFailed, StockReserved
from pillarbox.demo.services.defaults import RETRY, metadata

A = TypeVar("A")

shipments = Table(
    "demo_shipments",
    metadata,
    Column("shipment_id", Integer, primary_key=True, autoincrement=True),
    Column("order_id", String(64), nullable=False, index=True),
    Column("tracking", String(64), nullable=False),
)

HEAVY, MOST_IN_A_PARCEL = "KETTLE", 2
"""Of what is heavy no carrier of the demo takes more."""

handlers = Handlers(retry=RETRY)
asked = Handlers(retry=RETRY)
"""What the service does when a saga asks it."""


@handlers.on(StockReserved, name="ship-order")
async def ship_order(reserved: StockReserved, tx: AsyncConnection, ctx: Context) -> OrderShipped | ShippingFailed:
    """Ship what was set aside; the tracking number comes from the message, so a second attempt has the same."""
    return await _shipped(reserved, tx, ctx, OrderShipped)


@asked.on(SendParcel, name="send-parcel")
async def send_parcel(wish: SendParcel, tx: AsyncConnection, ctx: Context) -> ParcelSent | ShippingFailed:
    """Do the same for a saga, and answer it."""
    return await _shipped(wish, tx, ctx, ParcelSent)


async def _shipped(
    goods: StockReserved | SendParcel, tx: AsyncConnection, ctx: Context, answer: Callable[[str, str], A]
) -> A | ShippingFailed:
    if goods.sku.startswith(HEAVY) and goods.quantity > MOST_IN_A_PARCEL:
        return ShippingFailed(goods.order_id, f"{goods.quantity} of {goods.sku} are too heavy for a parcel")
    tracking = f"PB-{ctx.message_id[-12:].upper()}"
    await tx.execute(shipments.insert(), {"order_id": goods.order_id, "tracking": tracking})
    return answer(goods.order_id, tracking)
