"""What came by a broker becomes a message, readable or not."""

from __future__ import annotations

import msgspec
import pytest

from pillarbox.message import Message
from pillarbox.serialization import ForeignMessages, arrived, to_binary
from pillarbox.serialization.arrival import UNREADABLE
from pillarbox.serialization.cloudevents import to_structured

MESSAGE = Message(
    id="m-1",
    type="order.placed",
    destination="topic:order",
    key="o-1",
    content_type="application/json",
    headers={"source": "shop", "correlationid": "c", "tenant": "t"},
    body=b'{"a":1}',
)


@pytest.mark.parametrize("prefix", ["ce_", "ce-", "cloudevents:"])
def test_what_we_sent_arrives_as_it_was(prefix: str) -> None:
    headers = to_binary(MESSAGE, prefix=prefix)

    assert arrived(headers, MESSAGE.body, channel="topic:order", place="p", prefixes=(prefix,)) == MESSAGE


@pytest.mark.parametrize("name", ["content-type", "Content-Type"])
def test_an_event_in_structured_mode_is_understood(name: str) -> None:
    body = msgspec.json.encode(to_structured(MESSAGE))

    found = arrived({name: "application/cloudevents+json; charset=utf-8"}, body, channel="topic:order", place="p")

    assert found == MESSAGE


def test_headers_become_texts_that_every_store_can_hold() -> None:
    headers = {**to_binary(MESSAGE), "tenant": "a\x00b\ud800c\x9b"}

    found = arrived(headers, MESSAGE.body, channel="topic:order", place="p")

    assert found.headers["tenant"] == "a\\x00b\\xd800c\\x9b"
    assert arrived({"x": "\x1b[2J"}, b"", channel="topic:order", place="p").headers == {"x": "\\x1b[2J"}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"hello"),
        ({"ce_specversion": "1.0", "ce_id": "1"}, b"{}"),
        ({"content-type": "application/cloudevents+json"}, b"[1"),
        ({"content-type": "application/cloudevents+json"}, b'{"specversion": "1.0"}'),
        ({"content-type": "application/cloudevents+json"}, b"[" * 100_000),
    ],
    ids=["no event", "without a type", "no JSON", "without an id", "too deep"],
)
def test_what_nobody_can_read_keeps_its_bytes_and_is_named_after_its_place(
    headers: dict[str, str], body: bytes
) -> None:
    found = arrived(headers, body, channel="topic:order", place="stream/7")

    assert (found.id, found.type, found.destination, found.body) == ("stream/7", UNREADABLE, "topic:order", body)


@pytest.mark.parametrize(
    "headers",
    [
        {"ce_type": "t" * 201},
        {"content-type": "application/x-" + "y" * 100},
        {"x-type": "t" * 201},
    ],
    ids=["its type", "its content type", "the type of a foreign one"],
)
def test_what_no_dead_letter_could_hold_is_unreadable(headers: dict[str, str]) -> None:
    foreign = ForeignMessages(id="header:ce_id", type="header:x-type")
    of_ours = {} if "x-type" in headers else to_binary(MESSAGE)

    found = arrived({**of_ours, "ce_id": "m-1", **headers}, b"x", channel="topic:order", place="p", foreign=foreign)

    assert (found.id, found.type, found.body) == ("p", UNREADABLE, b"x")


def test_a_type_from_a_body_that_no_store_can_hold_is_unreadable() -> None:
    foreign = ForeignMessages(id="header:id", type="body:type")

    found = arrived({"id": "1"}, b'{"type": "a\\u0000b"}', channel="topic:order", place="p", foreign=foreign)

    assert found.type == UNREADABLE


def test_a_content_type_that_is_too_long_loses_its_parameters() -> None:
    headers = {**to_binary(MESSAGE), "content-type": f"application/json; profile={'p' * 100}"}

    assert arrived(headers, MESSAGE.body, channel="topic:order", place="p") == MESSAGE
