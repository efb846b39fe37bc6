"""Order fulfilment as an orchestrated saga: the order service asks, the other three do, refuse and undo.

``PILLARBOX_BROKER=redis://localhost:6379 python examples/fulfilment/orchestrated.py``

Four services, each with a database of its own. The order service keeps the saga: which step was asked for, done or
refused. The others know nothing of it; each answers commands, and Pillarbox sees to it that none takes effect twice.
"""

from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection
from stage import CARD_LIMIT_CENTS, NOWHERE, Order, Stage, note, noted, orders, take

from pillarbox import Saga, SagaContext, StepFailed, command, event
from pillarbox.errors import ConflictError

stage = Stage()

# --- what the services say to each other ---


@command("payment.charge", queue="payment", key="order_id")
@dataclass(frozen=True)
class ChargeCard:
    order_id: str
    cents: int


@command("payment.refund", queue="payment", key="order_id")
@dataclass(frozen=True)
class RefundCard:
    order_id: str


@event("payment.charged", key="order_id")
@dataclass(frozen=True)
class CardCharged:
    order_id: str


@event("payment.declined", key="order_id")
@dataclass(frozen=True)
class CardDeclined:
    order_id: str
    reason: str


@event("payment.refunded", key="order_id")
@dataclass(frozen=True)
class CardRefunded:
    order_id: str


@command("stock.reserve", queue="stock", key="order_id")
@dataclass(frozen=True)
class ReserveStock:
    order_id: str
    pieces: int


@command("stock.release", queue="stock", key="order_id")
@dataclass(frozen=True)
class ReleaseStock:
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


@event("stock.released", key="order_id")
@dataclass(frozen=True)
class StockReleased:
    order_id: str


@command("shipping.ship", queue="shipping", key="order_id")
@dataclass(frozen=True)
class ShipParcel:
    order_id: str
    address: str


@event("shipping.shipped", key="order_id")
@dataclass(frozen=True)
class ParcelShipped:
    order_id: str
    tracking: str


@event("shipping.refused", key="order_id")
@dataclass(frozen=True)
class ParcelRefused:
    order_id: str
    reason: str


@event("order.shipped", key="order_id")
@dataclass(frozen=True)
class OrderShipped:
    order_id: str
    tracking: str


@event("order.cancelled", key="order_id")
@dataclass(frozen=True)
class OrderCancelled:
    order_id: str


# --- the order service, which keeps the saga ---


@dataclass
class Fulfilment:
    """What the steps read and change; stored with every step."""

    order_id: str
    cents: int
    pieces: int
    address: str
    tracking: str = ""


fulfilment = Saga("fulfilment", state=Fulfilment)


@fulfilment.step
async def create_order(state: Fulfilment, tx: AsyncConnection) -> None:
    """Local: the row, and the fact that this step is done, commit together."""
    await tx.execute(insert(orders), {"order_id": state.order_id, "status": "placed"})


@create_order.compensate
async def cancel_order(state: Fulfilment, tx: AsyncConnection, ctx: SagaContext) -> None:
    await tx.execute(update(orders).where(orders.c.order_id == state.order_id).values(status="cancelled"))
    ctx.publish(OrderCancelled(state.order_id))


@fulfilment.request(replies=(CardCharged, CardDeclined))
def charge_card(state: Fulfilment) -> ChargeCard:
    """Request: a command goes out, and a reply is awaited."""
    return ChargeCard(state.order_id, state.cents)


@charge_card.on(CardDeclined)
def declined(state: Fulfilment, reply: CardDeclined) -> None:
    raise StepFailed(reply.reason)


@charge_card.compensate(replies=(CardRefunded,))
def refund_card(state: Fulfilment) -> RefundCard:
    """Sent too if no reply came in time: the card may have been charged."""
    return RefundCard(state.order_id)


@fulfilment.request(replies=(StockReserved, StockRejected))
def reserve_stock(state: Fulfilment) -> ReserveStock:
    return ReserveStock(state.order_id, state.pieces)


@reserve_stock.on(StockRejected)
def sold_out(state: Fulfilment, reply: StockRejected) -> None:
    raise StepFailed(reply.reason)


@reserve_stock.compensate(replies=(StockReleased,))
def release_stock(state: Fulfilment) -> ReleaseStock:
    return ReleaseStock(state.order_id)


@fulfilment.request(replies=(ParcelShipped, ParcelRefused), pivot=True)
def ship_parcel(state: Fulfilment) -> ShipParcel:
    """The pivot: a parcel that has left does not come back, so from here on there is only forward."""
    return ShipParcel(state.order_id, state.address)


@ship_parcel.on(ParcelShipped)
def shipped(state: Fulfilment, reply: ParcelShipped) -> None:
    state.tracking = reply.tracking


@ship_parcel.on(ParcelRefused)
def undeliverable(state: Fulfilment, reply: ParcelRefused) -> None:
    raise StepFailed(reply.reason)


@fulfilment.step
async def close_order(state: Fulfilment, tx: AsyncConnection, ctx: SagaContext) -> None:
    await tx.execute(update(orders).where(orders.c.order_id == state.order_id).values(status="shipped"))
    ctx.publish(OrderShipped(state.order_id, state.tracking))


order_service = stage.service("orders")
order_service.include(fulfilment)


async def place(order: Order) -> None:
    """Start the saga in a transaction of the order service; of one id there is one saga, however often this is done."""
    state = Fulfilment(order.order_id, order.cents, order.pieces, order.address)
    async with order_service.transaction() as tx:
        await order_service.sagas.start(fulfilment, state, saga_id=order.order_id, tx=tx)


async def change_mind(order: Order) -> None:
    """Cancel the saga: no further step is begun, and what was done is undone. Past the pivot it is too late."""
    with suppress(ConflictError):
        await order_service.sagas.cancel(order.order_id, reason="the customer changed their mind", by="customer")


# --- the three that take part ---

payment_service = stage.service("payment")
stock_service = stage.service("stock")
shipping_service = stage.service("shipping")


@payment_service.on(ChargeCard, RefundCard, name="payment")
async def pay(wish: ChargeCard | RefundCard, tx: AsyncConnection) -> CardCharged | CardDeclined | CardRefunded:
    """Do and undo in one consumer: they come in the order in which they were sent. The reply is what is returned."""
    if isinstance(wish, RefundCard):
        if cents := await noted(tx, wish.order_id, "charge"):  # there may be nothing to give back
            await note(tx, wish.order_id, "refund", -cents)
        return CardRefunded(wish.order_id)
    if wish.cents > CARD_LIMIT_CENTS:
        return CardDeclined(wish.order_id, "the card was declined")
    await note(tx, wish.order_id, "charge", wish.cents)
    return CardCharged(wish.order_id)


@stock_service.on(ReserveStock, ReleaseStock, name="stock")
async def keep_stock(
    wish: ReserveStock | ReleaseStock, tx: AsyncConnection
) -> StockReserved | StockRejected | StockReleased:
    if isinstance(wish, ReleaseStock):
        if pieces := await noted(tx, wish.order_id, "reserve"):
            await take(tx, -pieces)
            await note(tx, wish.order_id, "release", -pieces)
        return StockReleased(wish.order_id)
    if not await take(tx, wish.pieces):
        return StockRejected(wish.order_id, "sold out")
    await note(tx, wish.order_id, "reserve", wish.pieces)
    return StockReserved(wish.order_id)


@shipping_service.on(ShipParcel, name="shipping")
async def ship(wish: ShipParcel, tx: AsyncConnection) -> ParcelShipped | ParcelRefused:
    if wish.address == NOWHERE:
        return ParcelRefused(wish.order_id, f"no carrier goes to {NOWHERE}")
    await note(tx, wish.order_id, "ship", 1)
    return ParcelShipped(wish.order_id, f"PB-{wish.order_id}")


if __name__ == "__main__":
    stage.play(place, change_mind)
