"""Messages to be routed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pillarbox import command, event
from pillarbox.message import Message
from pillarbox.routing import RoutedMessage
from pillarbox.routing.view import reader_of


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """An event."""

    order_id: str
    total_cents: int = 0
    priority: str = "STANDARD"


@event("order.shipped", key="order_id")
@dataclass(frozen=True)
class OrderShipped:
    """Another of the same topic."""

    order_id: str


@command("payment.charge", queue="payments", key="order_id")
@dataclass(frozen=True)
class ChargePayment:
    """A command."""

    order_id: str


def message(
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    channel: str = "topic:order",
    content_type: str = "application/json",
    key: str | None = "o-1",
) -> Message:
    """Return a message with ``body`` as its JSON."""
    return Message(
        id="0192f0c1-2345-7abc-8def-0123456789ab",
        type="order.placed",
        destination=channel,
        key=key,
        content_type=content_type,
        headers=headers or {},
        body=json.dumps(body).encode(),
    )


def view(body: object = None, **envelope: object) -> RoutedMessage:
    """Return the same as conditions see it."""
    return reader_of(OrderPlaced).view(message(body, **envelope))  # type: ignore[arg-type]
