"""Rules of making and reading messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pillarbox.errors import DecodeError, InvalidMessageError, MissingKeyError, UnknownMessageTypeError
from pillarbox.message import Limits, Message, Registry, event, message_type_of
from pillarbox.serialization import JsonCodec, decode_message, encode_message


@event("order.placed", key="order_id")
@dataclass
class OrderV1:
    order_id: str
    total: int


@event("order.placed", key="order_id", version=2)
@dataclass
class OrderV2:
    order_id: str
    total_cents: int


@event("order.placed", key="order_id", version=3)
@dataclass
class OrderV3:
    order_id: str
    total_cents: int
    currency: str


NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
CODEC = JsonCodec()


def _encode(obj: object | None = None, **fields: Any) -> Message:
    obj = OrderV1("o-1", 42) if obj is None else obj
    declared = message_type_of(type(obj))
    return encode_message(
        obj, **{"message_type": declared, "codec": CODEC, "id": "m-1", "source": "shop", "time": NOW} | fields
    )


def _to_second(body: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": body["order_id"], "total_cents": body["total"] * 100}


def _to_third(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"currency": "EUR"}


def test_a_message_carries_its_object_and_its_history() -> None:
    message = _encode(
        causation_id="m-0", correlation_id="c-0", hop=3, reply_to="queue:shop.replies", traceparent="00-1"
    )

    assert (message.id, message.type, message.destination, message.key) == ("m-1", "order.placed", "topic:order", "o-1")
    assert message.content_type == "application/json"
    assert (message.source, message.time, message.version) == ("shop", NOW, 1)
    assert (message.correlation_id, message.causation_id, message.hop) == ("c-0", "m-0", 3)
    assert (message.reply_to, message.headers["traceparent"]) == ("queue:shop.replies", "00-1")
    assert message.body == b'{"order_id":"o-1","total":42}'


def test_the_first_message_of_a_process_correlates_with_itself() -> None:
    assert _encode().headers["correlationid"] == "m-1"


def test_headers_that_are_not_given_are_left_out() -> None:
    assert set(_encode().headers) == {"source", "time", "schemaversion", "correlationid", "hop"}


def test_time_is_written_in_utc() -> None:
    local = datetime(2026, 1, 2, 5, 0, tzinfo=timezone(timedelta(hours=2)))

    assert _encode(time=local).headers["time"] == "2026-01-02T03:00:00.000000Z"


def test_a_given_key_overrides_the_declared_one() -> None:
    assert _encode(key="k").key == "k"


def test_users_headers_travel_beside_our_own() -> None:
    assert _encode(headers={"tenant": "t-1"}).headers["tenant"] == "t-1"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": ""}, "its id is empty"),
        ({"source": ""}, "source is empty"),
        ({"source": "a\nb"}, "header 'source'"),
        ({"time": NOW.replace(tzinfo=None)}, "time is naive"),
        ({"hop": -1}, "hop is -1"),
        ({"key": ""}, "key is empty"),
        ({"headers": {"id": "x"}}, "reserved"),
        ({"headers": {"a": "\r\nb"}}, "header 'a'"),
        ({"correlation_id": "a\0"}, "header 'correlationid'"),
        ({"limits": Limits(max_body_bytes=20)}, "at most 20"),
        ({"limits": Limits(max_key_bytes=2)}, "at most 2"),
        ({"message_type": message_type_of(OrderV2)}, "declared for OrderV2"),
    ],
)
def test_what_a_store_or_broker_would_refuse_is_refused_first(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidMessageError, match=reason) as caught:
        _encode(**fields)

    assert caught.value.message_type == "order.placed"


def test_a_key_field_that_is_none_is_refused() -> None:
    with pytest.raises(MissingKeyError, match="flush"):
        _encode(OrderV1(None, 1))  # type: ignore[arg-type]  # the rule under test


def test_a_message_decodes_to_its_object() -> None:
    registry = Registry()
    registry.register(OrderV1)

    assert decode_message(_encode(), registry, CODEC) == OrderV1("o-1", 42)


def test_an_old_body_is_upcast_to_the_newest_class() -> None:
    registry = Registry()
    registry.register(OrderV2, upcasters={1: _to_second})
    registry.register(OrderV3, upcasters={2: _to_third})

    assert decode_message(_encode(), registry, CODEC) == OrderV3("o-1", 4200, "EUR")
    assert decode_message(_encode(OrderV2("o-1", 7)), registry, CODEC) == OrderV3("o-1", 7, "EUR")


def test_a_missing_link_in_the_chain_is_named() -> None:
    registry = Registry()
    registry.register(OrderV3, upcasters={1: _to_second})

    with pytest.raises(DecodeError, match="no upcaster from version 2"):
        decode_message(_encode(), registry, CODEC)


def test_an_old_body_without_upcaster_decodes_to_its_own_class_if_that_is_registered() -> None:
    registry = Registry()
    registry.register(OrderV1, OrderV3)

    assert decode_message(_encode(), registry, CODEC) == OrderV1("o-1", 42)


def test_an_old_body_with_neither_upcaster_nor_class_is_undecodable() -> None:
    registry = Registry()
    registry.register(OrderV3)

    with pytest.raises(DecodeError, match="no upcaster from version 1"):
        decode_message(_encode(), registry, CODEC)


def test_a_body_of_a_newer_version_is_read_as_the_newest_known() -> None:
    registry = Registry()
    registry.register(OrderV2)

    assert decode_message(_encode(OrderV3("o-1", 7, "EUR")), registry, CODEC) == OrderV2("o-1", 7)


def test_an_unknown_type_is_an_error_of_its_own() -> None:
    with pytest.raises(UnknownMessageTypeError) as caught:
        decode_message(_encode(OrderV2("o-1", 7)), Registry(), CODEC)

    assert (caught.value.message_type, caught.value.version) == ("order.placed", 2)


@pytest.mark.parametrize("upcaster", [lambda body: body["gone"], lambda body: [body], lambda body: None])
def test_an_upcaster_that_fails_makes_the_body_undecodable(upcaster: Any) -> None:
    registry = Registry()
    registry.register(OrderV2, upcasters={1: upcaster})

    with pytest.raises(DecodeError):
        decode_message(_encode(), registry, CODEC)


def _with(message: Message, **changes: Any) -> Message:
    return Message(**{name: getattr(message, name) for name in Message.__slots__} | changes)


def test_a_body_that_is_no_object_cannot_be_upcast() -> None:
    registry = Registry()
    registry.register(OrderV2, upcasters={1: _to_second})

    with pytest.raises(DecodeError, match="should be an object"):
        decode_message(_with(_encode(), body=b"[]"), registry, CODEC)


@pytest.mark.parametrize(
    "content_type", ["application/x-python-pickle", "application/x-python-serialize", "text/xml", ""]
)
def test_a_body_of_another_format_is_undecodable(content_type: str) -> None:
    registry = Registry()
    registry.register(OrderV1)

    with pytest.raises(DecodeError, match="this service reads"):
        decode_message(_with(_encode(), content_type=content_type), registry, CODEC)


def test_parameters_of_the_content_type_do_not_matter() -> None:
    registry = Registry()
    registry.register(OrderV1)

    message = _with(_encode(), content_type="Application/JSON; charset=utf-8")

    assert decode_message(message, registry, CODEC) == OrderV1("o-1", 42)
