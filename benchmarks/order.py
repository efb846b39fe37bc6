"""The event that every competitor carries: an order of about 500 bytes. Needs nothing but the standard library."""

from __future__ import annotations

import json
import re

BODY = json.dumps(
    {
        "order_id": "o-0000001",
        "customer": "Zoë Ångström",
        "total_cents": 4_250,
        "priority": "STANDARD",
        "note": "Leave with the neighbour, the bell does not work. " * 5,
        "address": {"street": "12 Example Street", "city": "Springfield", "zip": "49007"},
        "items": [f"article-{number:04d}" for number in range(3)],
    }
).encode()

KEYS = 1_000
"""How many orders the events are about; an order's events must stay in order."""

ACCOUNTS = 1_000
"""How many rows the consumers update."""

_NUMBER = re.compile(rb"o-(\d{7})")


def body_of(number: int) -> bytes:
    """Return the event of the order with this number."""
    return BODY.replace(b"o-0000001", order_id(number).encode())


def order_id(number: int) -> str:
    """Return the id of the order with this number."""
    return f"o-{number:07d}"


def key_of(number: int) -> str:
    """Return the key of the event with this number."""
    return order_id(number % KEYS)


def number_in(body: bytes) -> int:
    """Return the number of the order that an event, in whatever encoding, is about."""
    found = _NUMBER.search(body)
    assert found is not None, "an event names its order"
    return int(found[1])
