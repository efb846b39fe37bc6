"""A choreography for the tests of flows: what its messages are, who takes part, and what is seen of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pillarbox import command, event
from pillarbox.flow import Flow, Graph, Participant, Passage, SeenMessage, flow_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@event("payment.charged", key="order_id")
@dataclass(frozen=True)
class PaymentCharged:
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


@command("stock.reserve", queue="stock", key="order_id")
@dataclass(frozen=True)
class ReserveStock:
    order_id: str


HOMES = {
    "order.placed": "topic:order",
    "payment.charged": "topic:payment",
    "stock.reserved": "topic:stock",
    "stock.rejected": "topic:stock",
    "order.shipped": "topic:order",
    "order.cancelled": "topic:order",
    "stock.reserve": "queue:stock",
    "loyalty.granted": "topic:loyalty",
}
PLACED, CHARGED, SHIPPED, CANCELLED = "order.placed", "payment.charged", "order.shipped", "order.cancelled"
RESERVE, RESERVED, REJECTED = "stock.reserve", "stock.reserved", "stock.rejected"


def at(kind: str) -> Passage:
    """A type on the channel it is sent to."""
    return Passage(kind, HOMES[kind])


def participant(name: str, hears: str, *publishes: str, silent: bool = False, is_open: bool = False) -> Participant:
    """A consumer that hears one type."""
    return Participant(
        consumer=name,
        hears=(at(hears),),
        publishes=tuple(at(kind) for kind in publishes),
        may_be_silent=silent or not (publishes or is_open),
        is_open=is_open,
    )


CHARGE = participant("payment/charge", PLACED, CHARGED)
ADVANCE = participant("shop/advance", CHARGED, RESERVE)
TAKE = participant("stock/take", RESERVE, RESERVED, REJECTED)
SHIP = participant("shipping/ship", RESERVED, SHIPPED)
CANCEL = participant("shop/cancel", REJECTED, CANCELLED)
THANK = participant("shop/thank", CHARGED)
EVERYBODY = (CHARGE, ADVANCE, TAKE, SHIP, CANCEL, THANK)


def graph(*participants: Participant) -> Graph:
    """The graph of ``participants``."""
    return Graph(participants=tuple(sorted(participants, key=lambda one: one.consumer)))


WHOLE = graph(*EVERYBODY)


def without(*names: str) -> Graph:
    """The whole graph without some of its consumers."""
    return graph(*(one for one in EVERYBODY if one.consumer not in names))


def flow(
    *,
    within: timedelta = 10 * MINUTE,
    react_within: Mapping[type[object], timedelta] | None = None,
    expects: Mapping[type[object], Sequence[type[object]]] | None = None,
    rejections: Sequence[type[object]] = (),
) -> Flow:
    """The fulfilment of orders."""
    return flow_of(
        "shop/fulfilment",
        starts=OrderPlaced,
        ends=(OrderShipped, OrderCancelled),
        within=within,
        react_within=react_within or {},
        expects=expects or {},
        rejections=rejections,
    )


def message(
    kind: str, name: str, cause: SeenMessage | None = None, *, by_way_of: str | None = None, seen_after: int = 0
) -> SeenMessage:
    """A message that was seen so many seconds after noon; ``by_way_of`` a command that was not."""
    hop, causation_id, passage = 0, None, None
    if cause is not None:
        hop, causation_id, passage = cause.hop + 1, cause.message_id, cause.passage
    if by_way_of is not None and cause is not None:
        hop, causation_id, passage = cause.hop + 2, f"{by_way_of}-for-{name}", at(by_way_of)
    instant = NOW + timedelta(seconds=seen_after)
    return SeenMessage(
        correlation_id="m-1",
        message_id=name,
        passage=at(kind),
        service="shop",
        causation_id=causation_id,
        cause=passage,
        hop=hop,
        published_at=instant,
        seen_at=instant,
    )
