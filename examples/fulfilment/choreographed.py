"""Order fulfilment as a choreographed saga: nobody is in charge; each service reacts to what the others tell.

``PILLARBOX_BROKER=redis://localhost:6379 python examples/fulfilment/choreographed.py``

Four services, each with a database of its own. Three rules make it safe. What a service did and the event that says so
commit together, so an event is never a lie. Each service has one row per order in which its part is decided: a
cancellation that overtakes what it cancels leaves a tombstone there. And the order's own row decides between shipping
and cancelling, so that never both happen.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection
from stage import CARD_LIMIT_CENTS, NOWHERE, Order, Stage, note, noted, orders, parts, take

from pillarbox import event
from pillarbox.idempotency import insert_once

stage = Stage()

# --- what the services tell ---


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    cents: int
    pieces: int
    address: str


@event("payment.charged", key="order_id")
@dataclass(frozen=True)
class CardCharged:
    order_id: str
    pieces: int
    address: str


@event("payment.declined", key="order_id")
@dataclass(frozen=True)
class CardDeclined:
    order_id: str
    reason: str


@event("stock.reserved", key="order_id")
@dataclass(frozen=True)
class StockReserved:
    order_id: str
    address: str


@event("stock.rejected", key="order_id")
@dataclass(frozen=True)
class StockRejected:
    order_id: str
    reason: str


@event("order.ready", key="order_id")
@dataclass(frozen=True)
class OrderReady:
    """Paid and reserved: the point of no return for the customer."""

    order_id: str
    address: str


@event("order.shipped", key="order_id", topic="parcel")
@dataclass(frozen=True)
class OrderShipped:
    """The good end."""

    order_id: str
    tracking: str


@event("shipping.refused", key="order_id", topic="parcel")
@dataclass(frozen=True)
class ShippingRefused:
    order_id: str
    reason: str


@event("order.cancelled", key="order_id")
@dataclass(frozen=True)
class OrderCancelled:
    """The other end: whoever has done something for the order undoes it."""

    order_id: str
    reason: str


# --- the order service ---

order_service = stage.service("orders")
order_service.flow(
    "fulfilment",
    starts=OrderPlaced,
    ends=(OrderShipped, OrderCancelled),
    within=timedelta(minutes=10),
    rejections=(CardDeclined, StockRejected, ShippingRefused),
)
"""Nobody is in charge, so this is who notices when a reaction does not come."""


async def place(order: Order) -> None:
    """Write the order and tell of it, both or neither."""
    async with order_service.transaction() as tx:
        placed = await insert_once(tx, orders, {"order_id": order.order_id, "status": "placed"}, key="order_id")
        if placed.inserted:
            await order_service.publish(OrderPlaced(order.order_id, order.cents, order.pieces, order.address), tx=tx)


async def change_mind(order: Order) -> None:
    """Cancel for the customer, unless the order is on its way."""
    async with order_service.transaction() as tx:
        if await move(tx, order.order_id, "placed", to="cancelled"):
            await order_service.publish(OrderCancelled(order.order_id, "the customer changed their mind"), tx=tx)


@order_service.on(StockReserved, name="make-ready")
async def make_ready(reserved: StockReserved, tx: AsyncConnection) -> OrderReady | None:
    """Let it be shipped; if it was cancelled meanwhile, the cancellation has the goods released."""
    is_ready = await move(tx, reserved.order_id, "placed", to="ready")
    return OrderReady(reserved.order_id, reserved.address) if is_ready else None


@order_service.on(CardDeclined, StockRejected, ShippingRefused, name="cancel-order")
async def cancel_order(
    setback: CardDeclined | StockRejected | ShippingRefused, tx: AsyncConnection
) -> OrderCancelled | None:
    was = "ready" if isinstance(setback, ShippingRefused) else "placed"
    is_cancelled = await move(tx, setback.order_id, was, to="cancelled")
    return OrderCancelled(setback.order_id, setback.reason) if is_cancelled else None


@order_service.on(OrderShipped, name="close-order")
async def close_order(shipped: OrderShipped, tx: AsyncConnection) -> None:
    await move(tx, shipped.order_id, "ready", to="shipped")


async def move(tx: AsyncConnection, order_id: str, was: str, *, to: str) -> bool:
    """Move an order on if it stands at ``was``; return whether it did."""
    moved = await tx.execute(
        update(orders).where(orders.c.order_id == order_id, orders.c.status == was).values(status=to)
    )
    return moved.rowcount == 1


# --- the payment service ---

payment_service = stage.service("payment")


@payment_service.on(OrderPlaced, OrderCancelled, name="payment")
async def pay(news: OrderPlaced | OrderCancelled, tx: AsyncConnection) -> CardCharged | CardDeclined | None:
    """Charge, or give back. An exception is no refusal: it is tried again, and ``CardDeclined`` is never guessed."""
    if isinstance(news, OrderCancelled):
        if await is_undone(tx, news.order_id):
            await note(tx, news.order_id, "refund", -await noted(tx, news.order_id, "charge"))
        return None
    if news.cents > CARD_LIMIT_CENTS:
        return CardDeclined(news.order_id, "the card was declined")
    if not await is_done(tx, news.order_id):
        return None
    await note(tx, news.order_id, "charge", news.cents)
    return CardCharged(news.order_id, news.pieces, news.address)


# --- the stock service ---

stock_service = stage.service("stock")


@stock_service.on(CardCharged, OrderCancelled, name="stock")
async def keep_stock(news: CardCharged | OrderCancelled, tx: AsyncConnection) -> StockReserved | StockRejected | None:
    """Reserve, or release; the two come from different services, so either may come first."""
    if isinstance(news, OrderCancelled):
        if await is_undone(tx, news.order_id):
            pieces = await noted(tx, news.order_id, "reserve")
            await take(tx, -pieces)
            await note(tx, news.order_id, "release", -pieces)
        return None
    if not await is_done(tx, news.order_id):
        return None
    if not await take(tx, news.pieces):
        await is_undone(tx, news.order_id)  # so that nothing is released later
        return StockRejected(news.order_id, "sold out")
    await note(tx, news.order_id, "reserve", news.pieces)
    return StockReserved(news.order_id, news.address)


async def is_done(tx: AsyncConnection, order_id: str) -> bool:
    """Take the service's part on; return ``False`` if a cancellation was here before."""
    return (await insert_once(tx, parts, {"order_id": order_id, "state": "done"}, key="order_id")).inserted


async def is_undone(tx: AsyncConnection, order_id: str) -> bool:
    """Give the service's part up; return whether there is something to undo. If not, a tombstone is left."""
    if (await insert_once(tx, parts, {"order_id": order_id, "state": "undone"}, key="order_id")).inserted:
        return False
    undone = await tx.execute(
        update(parts).where(parts.c.order_id == order_id, parts.c.state == "done").values(state="undone")
    )
    return undone.rowcount == 1


# --- the shipping service ---

shipping_service = stage.service("shipping")


@shipping_service.on(OrderReady, name="shipping")
async def ship(ready: OrderReady, tx: AsyncConnection) -> OrderShipped | ShippingRefused:
    if ready.address == NOWHERE:
        return ShippingRefused(ready.order_id, f"no carrier goes to {NOWHERE}")
    await note(tx, ready.order_id, "ship", 1)
    return OrderShipped(ready.order_id, f"PB-{ready.order_id}")


for service in (payment_service, stock_service, shipping_service):  # whose databases the order service cannot see
    order_service.flows.include(service.flows.graph())


if __name__ == "__main__":
    stage.play(place, change_mind, leave_tombstones=("payment", "stock"))
