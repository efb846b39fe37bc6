"""Small messages for tests, and what a relay makes of them."""

from __future__ import annotations

from pillarbox.message import Message
from pillarbox.relay import PendingRecord


def message(
    identity: str = "m1",
    *,
    key: str | None = "k",
    destination: str = "topic:order",
    body: bytes = b'{"order_id": "o-1"}',
) -> Message:
    """A small message."""
    return Message(
        id=identity,
        type="order.placed",
        destination=destination,
        key=key,
        content_type="application/json",
        headers={"source": "shop"},
        body=body,
    )


def pending(position: int, destination: str = "topic:order", key: str | None = "k") -> PendingRecord:
    """A record as a relay reads it."""
    return PendingRecord(
        position=position, slot=0, held=False, message=message(f"m{position}", key=key, destination=destination)
    )
