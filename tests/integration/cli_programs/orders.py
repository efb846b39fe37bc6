"""What the programs, and the tests that place orders, both know."""

from dataclasses import dataclass

from pillarbox import event

NOTED = "CREATE TABLE IF NOT EXISTS noted (consumer TEXT NOT NULL, order_id TEXT NOT NULL)"


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@event("order.noted", key="order_id")
@dataclass(frozen=True)
class OrderNoted:
    order_id: str
