"""Messages as records of Kafka, and what others put there."""

from __future__ import annotations

import pytest

from pillarbox.brokers.kafka.layout import topic_of
from pillarbox.brokers.kafka.records import Place, headers_of, key_of, message_from
from pillarbox.errors import ConfigurationError
from pillarbox.message import Message
from pillarbox.serialization.arrival import UNREADABLE

PLACE = Place(topic="order", partition=3, offset=17, since_ms=1_700_000_000_000)
CHANNEL = "topic:order"
ORDER = Message(
    id="0193",
    type="order.placed",
    destination=CHANNEL,
    key="o-1",
    content_type="application/json",
    headers={"source": "shop", "hop": "0", "note": "naïve"},
    body=b'{"order_id":"o-1"}',
)


def read(
    headers: dict[str, bytes | None], *, key: bytes | None = None, value: bytes | None = b"{}", place: Place = PLACE
) -> Message:
    return message_from(list(headers.items()), key=key, value=value, channel=CHANNEL, place=place)


def there_and_back(message: Message) -> Message:
    return message_from(
        [(name, text.encode()) for name, text in headers_of(message).items()],
        key=key_of(message).encode(),
        value=message.body,
        channel=message.destination,
        place=PLACE,
    )


@pytest.mark.parametrize("key", ["o-1", None, "ключ"])
@pytest.mark.parametrize("headers", [{"source": "shop"}, {"source": "shop", "x-note": "a; b", "traceparent": "00-1"}])
def test_a_message_comes_back_as_it_was(key: str | None, headers: dict[str, str]) -> None:
    message = Message(
        id="0193", type="order.placed", destination=CHANNEL, key=key, content_type="a/b", headers=headers, body=b"\x00"
    )

    assert there_and_back(message) == message


def test_a_record_is_a_cloud_event_in_binary_mode() -> None:
    assert headers_of(ORDER) == {
        "ce_specversion": "1.0",
        "ce_id": "0193",
        "ce_type": "order.placed",
        "ce_source": "shop",
        "ce_subject": "o-1",
        "ce_hop": "0",
        "content-type": "application/json",
        "note": "naïve",
    }


def test_a_message_without_a_key_goes_by_its_id() -> None:
    message = Message(
        id="0193", type="t", destination=CHANNEL, key=None, content_type="a/b", headers={"source": "s"}, body=b""
    )

    assert key_of(message) == "0193"


FOREIGN: dict[str, bytes | None] = {
    "ce_specversion": b"1.0",
    "ce_id": b"A-1",
    "ce_source": b"/billing",
    "ce_type": b"com.example.paid",
}


def test_the_key_of_a_foreign_record_is_the_message_s() -> None:
    message = read({**FOREIGN, "ce_subject": b"invoice 7"}, key=b"customer 9")

    assert (message.id, message.key, message.headers["subject"]) == ("A-1", "customer 9", "invoice 7")


def test_without_a_key_the_subject_of_a_foreign_record_is_it() -> None:
    assert read({**FOREIGN, "ce_subject": b"invoice 7"}).key == "invoice 7"


@pytest.mark.parametrize("raw", [b"\xff\x00", b"k" * 600, b"nul\x00"])
def test_a_key_that_is_no_text_of_ours_still_keeps_its_messages_together(raw: bytes) -> None:
    key = read(FOREIGN, key=raw).key

    assert key is not None
    assert key.startswith("sha256:")
    assert key == read({**FOREIGN, "ce_id": b"A-2"}, key=raw).key


def test_headers_of_others_are_kept_in_lower_case_and_as_text() -> None:
    message = read({**FOREIGN, "X-Trace": b"\xff1", "empty": None, "line": b"a\nb"})

    assert message.headers == {"source": "/billing", "x-trace": "\\xff1", "empty": "", "line": "a\\x0ab"}


def test_a_structured_event_is_read() -> None:
    value = b'{"specversion":"1.0","id":"A-1","source":"/b","type":"paid","data":{"n":1}}'

    message = read({"content-type": b"application/cloudevents+json; charset=utf-8", "x": b"1"}, value=value, key=b"k")

    assert (message.id, message.type, message.key, message.body) == ("A-1", "paid", "k", b'{"n":1}')
    assert message.content_type == "application/json"
    assert message.headers == {"source": "/b", "x": "1"}


def test_a_message_of_ours_may_itself_hold_a_cloud_event() -> None:
    message = Message(
        id="1",
        type="t",
        destination=CHANNEL,
        key=None,
        content_type="application/cloudevents+json",
        headers={"source": "s"},
        body=b"{}",
    )

    assert there_and_back(message) == message


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ({}, b"hello"),
        ({}, None),
        ({"ce_specversion": b"0.3", "ce_id": b"1", "ce_source": b"s", "ce_type": b"t"}, b"x"),
        ({"ce_specversion": b"1.0", "ce_source": b"s", "ce_type": b"t"}, b"x"),
        ({**FOREIGN, "ce_id": b"\xff"}, b"x"),
        ({**FOREIGN, "ce_id": b"a b"}, b"x"),
        ({"content-type": b"application/cloudevents+json"}, b"[1]"),
        ({"content-type": b"application/cloudevents+json"}, b"{"),
        ({"content-type": b"application/cloudevents+json"}, b'{"specversion":"1.0"}'),
        ({"content-type": b"application/cloudevents-batch+json"}, b"[]"),
    ],
)
def test_what_is_no_event_becomes_unreadable_with_all_it_holds(
    headers: dict[str, bytes | None], value: bytes | None
) -> None:
    message = read(headers, value=value, key=b"k")

    assert message.type == UNREADABLE
    assert message.id == "kafka/order/3/17@1700000000000"
    assert (message.key, message.body) == ("k", value or b"")


def test_the_identity_of_a_place_fits_every_inbox() -> None:
    long = Place(topic="t" * 240, partition=1, offset=1, since_ms=1)

    assert len(long.identity) <= 200
    assert read({}, place=long).id == long.identity


def test_topics_and_queues_of_one_name_are_two_topics() -> None:
    assert topic_of("topic:order") == "order"
    assert topic_of("queue:order") == "_queue.order"


def test_a_name_that_kafka_would_not_take_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="too long for Kafka"):
        topic_of("queue:" + "x" * 245)
