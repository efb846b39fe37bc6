"""The messages that consumers handle, made before the clock starts, and the rows that they update."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from benchmarks.order import ACCOUNTS, KEYS, body_of, key_of
from pillarbox import event
from pillarbox.message import Message, Number, new_message_id

CREATE_ACCOUNTS = "CREATE TABLE accounts (id INTEGER PRIMARY KEY, orders INTEGER NOT NULL)"
FILL_ACCOUNTS = {
    "postgresql": f"INSERT INTO accounts SELECT n, 0 FROM generate_series(0, {ACCOUNTS - 1}) AS n",
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers"
    f" WHERE n < {ACCOUNTS - 1}) INSERT INTO accounts SELECT n, 0 FROM numbers",
}
CREATE_INBOX = (
    "CREATE TABLE inbox (consumer VARCHAR(200) NOT NULL, message_id VARCHAR(200) NOT NULL,"
    " processed_at BIGINT NOT NULL, PRIMARY KEY (consumer, message_id))"
)
HEADERS = {"source": "shop", "time": "2026-01-01T00:00:00.000000Z", "schemaversion": "1", "hop": "0"}


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """As ``benchmarks.order.BODY`` holds it."""

    order_id: str
    customer: str
    total_cents: int
    priority: str
    note: str
    address: dict[str, str]
    items: list[str]


@event("order.placed", key="order_id", numbered=True)
@dataclass(frozen=True)
class NumberedOrder(OrderPlaced):
    """The same, of a topic whose messages bear numbers."""


def order_of(number: int) -> OrderPlaced:
    """Return the order with this number."""
    return msgspec.json.decode(body_of(number), type=OrderPlaced)


def messages(count: int) -> list[Message]:
    """Make ``count`` messages about 1,000 orders."""
    made: list[Message] = []
    for number in range(count):
        key = key_of(number)
        identity = new_message_id()
        made.append(
            Message(
                id=identity,
                type="order.placed",
                destination="topic:order",
                key=key,
                content_type="application/json",
                headers={**HEADERS, "correlationid": identity},
                body=body_of(number % KEYS),
            )
        )
    return made


def numbered(plain: list[Message]) -> list[Message]:
    """Return ``plain`` with the numbers of their keys."""
    counters = Counter[str | None]()
    made: list[Message] = []
    for message in plain:
        counters[message.key] += 1
        headers = {**message.headers, **Number(1, counters[message.key]).headers}
        made.append(replace(message, headers=headers))
    return made


def account_of(order_id: str) -> int:
    """Return the row that an order counts in."""
    return int(order_id[2:]) % ACCOUNTS
