"""Rules of the CloudEvents mapping."""

from __future__ import annotations

from typing import Any

import pytest

from pillarbox.errors import DecodeError, InvalidMessageError
from pillarbox.message import Message
from pillarbox.serialization.cloudevents import from_binary, from_structured, to_binary, to_structured


def _message(**fields: Any) -> Message:
    return Message(
        **{
            "id": "m-1",
            "type": "order.placed",
            "destination": "topic:order",
            "key": "o-1",
            "content_type": "application/json",
            "headers": {"source": "shop", "correlationid": "c", "tenant": "t", "x-a.b": "1"},
            "body": b'{"a":1}',
        }
        | fields
    )


def test_the_structured_form_has_the_names_of_the_specification() -> None:
    assert to_structured(_message()) == {
        "specversion": "1.0",
        "id": "m-1",
        "type": "order.placed",
        "source": "shop",
        "subject": "o-1",
        "datacontenttype": "application/json",
        "correlationid": "c",
        "tenant": "t",
        "pillarboxheaders": '{"x-a.b":"1"}',
        "data": {"a": 1},
    }


def test_the_binary_form_prefixes_attributes_and_leaves_users_headers() -> None:
    assert to_binary(_message()) == {
        "ce_specversion": "1.0",
        "ce_id": "m-1",
        "ce_type": "order.placed",
        "ce_source": "shop",
        "ce_subject": "o-1",
        "ce_correlationid": "c",
        "content-type": "application/json",
        "tenant": "t",
        "x-a.b": "1",
    }


@pytest.mark.parametrize(
    "message",
    [
        _message(),
        _message(key=None),
        _message(content_type="application/octet-stream", body=b"\x00\xff"),
        _message(body=b"no json"),
        _message(body=b"1e999"),
        _message(body=b"", content_type="application/protobuf"),
        _message(headers={"source": "shop", "id": "foreign", "pillarboxheaders": "x"}),
    ],
)
def test_a_message_survives_both_forms(message: Message) -> None:
    assert from_structured(to_structured(message), destination="topic:order") == message
    assert from_binary(to_binary(message), message.body, destination="topic:order") == message


def test_a_body_that_is_no_json_travels_as_base64() -> None:
    event = to_structured(_message(content_type="application/octet-stream", body=b"\x00\xff"))

    assert event["data_base64"] == "AP8="
    assert "data" not in event


def test_a_message_without_source_is_no_cloudevent() -> None:
    with pytest.raises(InvalidMessageError, match="source"):
        to_structured(_message(headers={}))


FOREIGN: dict[str, object] = {"specversion": "1.0", "id": "1", "source": "/x", "type": "com.example.Thing"}


def test_an_event_of_a_foreign_producer_is_read() -> None:
    message = from_structured(
        FOREIGN | {"data": "text", "datacontenttype": "text/plain", "n": 3, "b": True}, destination="queue:q"
    )

    assert (message.type, message.key, message.body) == ("com.example.Thing", None, b"text")
    assert message.headers == {"source": "/x", "n": "3", "b": "true"}


def test_attributes_that_are_null_count_as_absent() -> None:
    assert from_structured(FOREIGN | {"subject": None}, destination="queue:q").key is None


def test_an_event_without_data_has_an_empty_body() -> None:
    assert from_structured(FOREIGN, destination="queue:q").body == b""


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "0.3"},
        {"id": ""},
        {"id": None},
        {"source": ""},
        {"type": None},
        {"id": "a b"},
        {"subject": "k" * 513},
        {"extra": []},
        {"extra": "\ud800"},
        {"data_base64": "*"},
        {"data": object()},
        {"data": "\ud800", "datacontenttype": "text/plain"},
        {"pillarboxheaders": "[]"},
    ],
)
def test_what_is_no_cloudevent_is_undecodable(change: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        from_structured(FOREIGN | change, destination="queue:q")


def test_transport_headers_without_an_id_are_undecodable() -> None:
    with pytest.raises(DecodeError, match="'id' is missing"):
        from_binary({"ce_specversion": "1.0", "CE_Type": "a.b", "ce_source": "x"}, b"", destination="queue:q")
