"""How messages are read that are no CloudEvents."""

from __future__ import annotations

import pytest

from pillarbox.errors import ConfigurationError, DecodeError, InvalidMessageError
from pillarbox.serialization import ForeignMessages, arrived

LEGACY = ForeignMessages(id="header:X-Id", type="body:what.kind", key="body:order")
BODY = b'{"what": {"kind": "paid"}, "order": 7}'


def test_each_part_is_found_where_it_is_said_to_stand() -> None:
    message = LEGACY.read({"x-id": "m-1", "Content-Type": "text/json", "tenant": "t"}, BODY, channel="topic:legacy")

    assert (message.id, message.type, message.key) == ("m-1", "paid", "7")
    assert (message.destination, message.content_type, message.body) == ("topic:legacy", "text/json", BODY)
    assert message.headers == {"source": "foreign", "x-id": "m-1", "tenant": "t"}


def test_a_type_may_be_the_same_for_all_and_a_key_may_be_none() -> None:
    plain = ForeignMessages(id="body:id", type="=paid")

    message = plain.read({}, b'{"id": 4}', channel="topic:legacy")

    assert (message.id, message.type, message.key) == ("4", "paid", None)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, BODY),
        ({"x-id": ""}, BODY),
        ({"x-id": "a b"}, BODY),
        ({"x-id": "m-1"}, b"no JSON"),
        ({"x-id": "m-1"}, b'{"what": "kind", "order": 7}'),
        ({"x-id": "m-1"}, b'{"what": {"kind": true}, "order": 7}'),
        ({"x-id": "m-1"}, b'{"what": {"kind": "paid"}}'),
    ],
    ids=["no id", "an empty id", "an id with a space", "no JSON", "no object", "no text", "no key"],
)
def test_what_lacks_a_part_is_not_read(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises((DecodeError, InvalidMessageError)):
        LEGACY.read(headers, body, channel="topic:legacy")

    found = arrived(headers, body, channel="topic:legacy", place="stream/3", foreign=LEGACY)
    assert (found.id, found.type, found.body) == ("stream/3", "unreadable", body)


def test_an_event_is_read_as_an_event_all_the_same() -> None:
    headers = {"ce_specversion": "1.0", "ce_id": "e-1", "ce_source": "s", "ce_type": "t", "x-id": "m-1"}

    assert arrived(headers, BODY, channel="topic:legacy", place="p", foreign=LEGACY).id == "e-1"


@pytest.mark.parametrize("places", [{"id": "x-id"}, {"id": "=1"}, {"id": "header:"}, {"type": "paid"}, {"key": "k"}])
def test_what_is_no_place_is_refused(places: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="says no place"):
        ForeignMessages(**{"id": "header:x-id", "type": "=paid", **places})
