"""Services that react to each other's events, for the tests of flows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Settings, command, event
from pillarbox.message import message_type_of
from pillarbox.relational.expressions import micros
from pillarbox.relational.flow_tables import flow_instances, flow_messages
from tests.integration.boxes import SETTINGS, Happenings
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.channel import Broker

WITHIN = timedelta(milliseconds=600)
PATIENT = timedelta(minutes=5)
OFTEN = timedelta(milliseconds=100)
"""A time within which nothing is waited for in these tests: it makes the watch look often."""


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@event("payment.charged", key="order_id")
@dataclass(frozen=True)
class PaymentCharged:
    order_id: str


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


@event("order.shipped", key="order_id")
@dataclass(frozen=True)
class OrderShipped:
    order_id: str


@event("order.cancelled", key="order_id")
@dataclass(frozen=True)
class OrderCancelled:
    order_id: str


@event("order.never", key="order_id")
@dataclass(frozen=True)
class Unseen:
    order_id: str


def declare(box: Pillarbox, **changed: Any) -> None:
    """Declare the fulfilment of orders."""
    ends = (OrderShipped, OrderCancelled)
    said: dict[str, Any] = {"starts": OrderPlaced, "ends": ends, "within": PATIENT, "react_within": {Unseen: OFTEN}}
    box.flow("fulfilment", **{**said, **changed})


def pay(box: Pillarbox) -> None:
    """Charge what is ordered, then ask for what is to be sent."""

    @box.on(OrderPlaced, name="charge")
    async def charge(order: OrderPlaced, tx: AsyncConnection) -> PaymentCharged:
        return PaymentCharged(order.order_id)

    @box.on(PaymentCharged, name="ask")
    async def ask(payment: PaymentCharged, tx: AsyncConnection) -> ReserveStock:
        return ReserveStock(payment.order_id)


def stock(box: Pillarbox, *, broken: bool = False) -> None:
    """Take from the stock."""

    @box.on(ReserveStock, name="reserve", retry=Retry(attempts=1), when_dead="skip")
    async def reserve(command: ReserveStock, tx: AsyncConnection) -> StockReserved | StockRejected:
        if broken:
            raise ValueError("the shelf has fallen over")
        return StockReserved(command.order_id)


def ship(box: Pillarbox) -> None:
    """Send what was taken."""

    @box.on(StockReserved, name="ship")
    async def ship(stock: StockReserved, tx: AsyncConnection) -> OrderShipped:
        return OrderShipped(stock.order_id)


def make_service(
    name: str, url: str, broker: str | Broker | None = None, *, settings: Settings = SETTINGS
) -> tuple[Pillarbox, Happenings]:
    """A box without handlers, and what happens in it."""
    box, happenings = Pillarbox(name, store=url, broker=broker, settings=settings), Happenings()
    box.observe(happenings)
    return box, happenings


async def place(box: Pillarbox, *orders: str) -> list[str]:
    """Place orders; return the ids of their processes."""
    async with box.transaction() as tx:
        return [(await box.publish(OrderPlaced(order), tx=tx)).id for order in orders]


async def let_time_pass(box: Pillarbox) -> None:
    """Have every process that runs on the box's store started, and all its messages seen, ``PATIENT`` earlier."""
    ago, begun = micros(PATIENT), flow_instances.c
    async with box.transaction() as tx:
        await tx.execute(update(flow_messages).values(seen_at=flow_messages.c.seen_at - ago))
        await tx.execute(
            update(flow_instances)
            .where(begun.state == "running")
            .values(started_at=begun.started_at - ago, due_at=begun.due_at - ago)
        )


async def has_seen(box: Pillarbox, kind: type[object], count: int = 1) -> None:
    """Wait until so many messages of ``kind`` were seen."""
    seen = select(func.count()).where(flow_messages.c.type == message_type_of(kind).name)

    async def has() -> bool:
        async with box.transaction() as tx:
            return (await tx.execute(seen)).scalar_one() >= count

    await wait_until(has, timedelta(seconds=20))
