"""The official SDK of CloudEvents understands what we publish, and we understand what it publishes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.core.bindings import amqp, http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from pillarbox.brokers.nats.headers import block_of, headers_from, message_from
from pillarbox.message import Message
from pillarbox.serialization import arrived, to_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MESSAGE = Message(
    id="m-1",
    type="order.placed",
    destination="topic:order",
    key="o-1",
    content_type="application/json",
    headers={"source": "shop", "time": "2026-01-02T03:04:05.000006Z", "schemaversion": "1", "correlationid": "c-1"},
    body=b'{"order_id":"o-1"}',
)
EVENT = CloudEvent(
    attributes={
        "id": "e-1",
        "source": "/elsewhere",
        "type": "order.placed",
        "subject": "o-9",
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "datacontenttype": "application/json",
        "traceparent": "00-1-2-01",
    },
    data={"order_id": "o-9"},
)


def read_kafka(message: Message) -> Any:
    headers = {name: value.encode() for name, value in to_binary(message).items()}
    return kafka.from_binary(
        kafka.KafkaMessage(headers=headers, key=message.key, value=message.body), JSONFormat(), CloudEvent
    )


def read_nats(message: Message) -> Any:
    headers = headers_from(block_of(message))
    return http.from_binary(http.HTTPMessage(headers=headers, body=message.body), JSONFormat(), CloudEvent)


def read_amqp(message: Message) -> Any:
    headers = to_binary(message, prefix="cloudEvents:")
    return amqp.from_binary(
        amqp.AMQPMessage(
            properties={"content-type": headers.pop("content-type")},
            application_properties=dict(headers),
            application_data=message.body,
        ),
        JSONFormat(),
        CloudEvent,
    )


@pytest.mark.parametrize("read", [read_kafka, read_nats, read_amqp])
def test_the_sdk_reads_what_we_publish(read: Callable[[Message], Any]) -> None:
    event = read(MESSAGE)

    assert event.get_id() == "m-1"
    assert event.get_type() == "order.placed"
    assert event.get_source() == "shop"
    assert event.get_subject() == "o-1"
    assert event.get_time() == datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert event.get_extension("correlationid") == "c-1"
    assert event.get_data() == {"order_id": "o-1"}


def sent_by_kafka(*, is_binary: bool) -> tuple[Mapping[str, Any], bytes, tuple[str, ...]]:
    sent = (kafka.to_binary if is_binary else kafka.to_structured)(EVENT, JSONFormat())
    return {name: value.decode() for name, value in sent.headers.items()}, sent.value, ("ce_",)


def sent_by_nats(*, is_binary: bool) -> tuple[Mapping[str, Any], bytes, tuple[str, ...]]:
    sent = (http.to_binary if is_binary else http.to_structured)(EVENT, JSONFormat())
    return sent.headers, sent.body, ("ce-",)


def sent_by_amqp(*, is_binary: bool) -> tuple[Mapping[str, Any], bytes, tuple[str, ...]]:
    sent = (amqp.to_binary if is_binary else amqp.to_structured)(EVENT, JSONFormat())
    return {**sent.application_properties, **sent.properties}, sent.application_data, ("cloudevents:", "cloudevents_")


@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "structured"])
@pytest.mark.parametrize("sent_by", [sent_by_kafka, sent_by_nats, sent_by_amqp])
def test_we_read_what_the_sdk_publishes(sent_by: Callable[..., Any], *, is_binary: bool) -> None:
    headers, body, prefixes = sent_by(is_binary=is_binary)
    texts = {name: value.isoformat() if isinstance(value, datetime) else str(value) for name, value in headers.items()}

    if sent_by is sent_by_nats:
        message = message_from(texts, body, channel="topic:order", place="p")
    else:
        message = arrived(texts, body, channel="topic:order", place="p", prefixes=prefixes)

    assert (message.id, message.type, message.key) == ("e-1", "order.placed", "o-9")
    assert message.headers["source"] == "/elsewhere"
    assert message.headers["traceparent"] == "00-1-2-01"
    assert message.body.replace(b" ", b"") == b'{"order_id":"o-9"}'
