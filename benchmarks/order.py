"""The event that every competitor carries: an order of about 500 bytes. Needs nothing but the standard library."""

from __future__ import annotations

import json

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
