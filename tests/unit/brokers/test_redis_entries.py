"""Entries of a Redis stream become messages, whoever wrote them."""

from __future__ import annotations

import pytest

from pillarbox.brokers.redis.entries import fields_of, message_from
from pillarbox.message import Message
from pillarbox.serialization import UNREADABLE

MESSAGE = Message(
    id="m-1",
    type="order.placed",
    destination="queue:orders",
    key="o-1",
    content_type="application/json",
    headers={"source": "shop"},
    body=b"{}",
)


def entry(message: Message) -> list[bytes]:
    """Return the fields of an entry as Redis returns them."""
    return [one if isinstance(one, bytes) else one.encode() for one in fields_of(message)]


def test_what_we_wrote_is_read_as_it_was() -> None:
    assert message_from(entry(MESSAGE), channel="queue:orders", place="p") == MESSAGE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"id", b""),
        (b"id", b"x" * 201),
        (b"id", b"a\0b"),
        (b"type", b"t" * 201),
        (b"type", b"a\0b"),
        (b"key", b""),
        (b"key", b"k" * 513),
        (b"key", b"a\0b"),
        (b"contenttype", b"y" * 101),
    ],
    ids=repr,
)
def test_what_no_store_could_hold_is_unreadable_with_all_that_it_holds(name: bytes, value: bytes) -> None:
    fields = entry(MESSAGE)
    fields[fields.index(name) + 1] = value

    found = message_from(fields, channel="queue:orders", place="p")

    assert (found.id, found.type, found.body) == ("p", UNREADABLE, b"\n".join(fields))
