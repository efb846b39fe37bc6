"""How messages become bytes of AMQP and back, and what comes that is no message of ours."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from pillarbox.brokers.rabbitmq import frames
from pillarbox.brokers.rabbitmq.address import address_of
from pillarbox.brokers.rabbitmq.envelope import UNNAMED, pack, text_of, unpack
from pillarbox.brokers.rabbitmq.frames import Properties
from pillarbox.errors import ConfigurationError
from pillarbox.message import Message
from pillarbox.serialization import ForeignMessages

FRAME_MAX = 4096
MESSAGE = Message(
    id="m-1",
    type="order.placed",
    destination="topic:order",
    key="k",
    content_type="application/json",
    headers={"source": "shop", "note": "naïve ☃"},
    body=b"{}",
)
texts = st.text(max_size=60).filter(lambda text: "\x00" not in text)


def packed_by_pamqp(properties: commands.Basic.Properties, body: bytes = b"") -> bytes:
    raw = frame.marshal(ContentHeader(0, len(body), properties), 1)
    return raw[7:-1]


def came_of(message: Message, body: bytes | None = None) -> Message:
    packed = pack(message, frame_max=FRAME_MAX)
    return unpack(packed, message.body if body is None else body, channel=message.destination, queue="q")


@given(content_type=st.none() | texts, kind=st.none() | texts, headers=st.dictionaries(texts, texts, max_size=5))
def test_what_is_packed_by_hand_is_what_the_library_reads(
    content_type: str | None, kind: str | None, headers: dict[str, str]
) -> None:
    properties = Properties(content_type=content_type, type=kind, message_id="m-1", headers=headers)

    packed = frames.pack_properties(properties, 3)
    _, _, header = frame.unmarshal(frames.content_frames(1, packed, b"", frame_max=FRAME_MAX))

    assert isinstance(header, ContentHeader)
    assert (header.body_size, header.properties.delivery_mode) == (3, 2)
    assert (header.properties.content_type, header.properties.message_type) == (content_type, kind)
    assert header.properties.headers == headers
    assert frames.read_properties(packed) == properties


def test_every_property_and_type_of_header_is_read_or_passed_over() -> None:
    headers = {
        "text": "t",
        "number": 7,
        "big": 1 << 40,
        "yes": True,
        "no": None,
        "time": datetime(2026, 1, 2, tzinfo=UTC),
        "price": Decimal("1.50"),
        "list": [1, "two"],
        "table": {"a": 1},
        "bytes": bytearray(b"\x01"),
        "ratio": 0.5,
    }
    packed = packed_by_pamqp(
        commands.Basic.Properties(
            content_type="text/plain",
            content_encoding="utf-8",
            headers=headers,
            delivery_mode=2,
            priority=3,
            correlation_id="c",
            reply_to="r",
            expiration="1000",
            message_id="m",
            timestamp=datetime(2026, 1, 2, tzinfo=UTC),
            message_type="kind",
            user_id="guest",
            app_id="app",
        )
    )

    properties = frames.read_properties(packed)

    assert (properties.content_type, properties.message_id, properties.type) == ("text/plain", "m", "kind")
    assert {name: text_of(value) for name, value in properties.headers.items()} == {
        "text": "t",
        "number": "7",
        "big": "1099511627776",
        "yes": "true",
        "no": "",
        "time": "2026-01-02T00:00:00+00:00",
        "price": "1.50",
        "list": '[1,"two"]',
        "table": '{"a":1}',
        "bytes": "\x01",
        "ratio": "0.5",
    }


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 3 * FRAME_MAX])
def test_a_body_is_cut_into_frames_that_the_server_takes(size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    packed = frames.pack_properties(Properties(content_type=None, type=None, message_id=None, headers={}), size)

    data = frames.content_frames(1, packed, body, frame_max=FRAME_MAX)

    used, _, header = frame.unmarshal(data)
    assert isinstance(header, ContentHeader)
    pieces: list[bytes] = []
    while data := data[used:]:
        used, _, piece = frame.unmarshal(data)
        assert isinstance(piece, ContentBody)
        assert used <= FRAME_MAX
        pieces.append(piece.value)
    assert b"".join(pieces) == body


def test_methods_are_read_as_the_library_packs_them() -> None:
    deliver = frame.marshal(commands.Basic.Deliver("tag", 7, False, "x", "y"), 1)[7:-1]
    nack = frame.marshal(commands.Basic.Nack(9, True, False), 1)[7:-1]
    acknowledged = frame.unmarshal(frames.ack_frame(3, 5, multiple=True))[2]

    assert (frames.method_of(deliver), frames.read_delivery_tag(deliver)) == (frames.DELIVER, 7)
    assert (frames.method_of(nack), frames.read_confirm(nack)) == (frames.NACK, (9, True))
    assert isinstance(acknowledged, commands.Basic.Ack)
    assert (acknowledged.delivery_tag, acknowledged.multiple) == (5, True)


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE,
        replace(MESSAGE, headers={}),
        replace(MESSAGE, key=None),
        replace(MESSAGE, headers={**MESSAGE.headers, "content-encoding": "br", "x-mine": "1"}),
    ],
    ids=["plain", "no source", "no key", "headers of the user"],
)
def test_a_message_comes_as_it_went(message: Message) -> None:
    assert came_of(message) == message


def test_a_content_type_too_long_for_its_property_goes_as_a_header() -> None:
    """Whoever reads it here has no room for it: its parameters are left out."""
    assert came_of(replace(MESSAGE, content_type=f"{MESSAGE.content_type}; profile={'y' * 300}")) == MESSAGE


def test_a_message_is_a_cloud_event_for_everybody() -> None:
    properties = frames.read_properties(pack(MESSAGE, frame_max=FRAME_MAX))

    assert (properties.content_type, properties.type, properties.message_id) == (
        "application/json",
        "order.placed",
        "m-1",
    )
    assert {name: text for name, text in properties.headers.items() if name.startswith("cloudEvents:")} == {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:id": "m-1",
        "cloudEvents:type": "order.placed",
        "cloudEvents:subject": "k",
        "cloudEvents:source": "shop",
    }


def test_a_source_that_was_made_up_is_taken_off_again() -> None:
    properties = frames.read_properties(pack(replace(MESSAGE, headers={}), frame_max=FRAME_MAX))

    assert properties.headers["cloudEvents:source"] == UNNAMED


def test_a_redelivery_is_the_same_message() -> None:
    headers = dict(frames.read_properties(pack(MESSAGE, frame_max=FRAME_MAX)).headers)
    again = packed_by_pamqp(
        commands.Basic.Properties(content_type=MESSAGE.content_type, headers={**headers, "x-delivery-count": 3})
    )

    assert unpack(again, MESSAGE.body, channel=MESSAGE.destination, queue="q") == MESSAGE


@pytest.mark.parametrize("name", ["CC", "BCC"])
def test_an_order_to_the_server_is_no_header_of_a_message(name: str) -> None:
    """As a text it would close the channel, and with it stop every other message."""
    headers = dict(frames.read_properties(pack(MESSAGE, frame_max=FRAME_MAX)).headers)
    came = packed_by_pamqp(
        commands.Basic.Properties(content_type=MESSAGE.content_type, headers={**headers, name: ["elsewhere"]})
    )

    assert unpack(came, MESSAGE.body, channel=MESSAGE.destination, queue="q") == MESSAGE
    with pytest.raises(ValueError, match="CC or BCC"):
        pack(replace(MESSAGE, headers={**MESSAGE.headers, name: "x"}), frame_max=FRAME_MAX)


def test_the_id_and_type_of_a_foreign_message_may_stand_in_its_properties() -> None:
    foreign = ForeignMessages(id="header:message-id", type="header:type", key="body:order_id")
    packed = packed_by_pamqp(commands.Basic.Properties(message_id="x-7", message_type="payment.charge"))

    found = unpack(packed, b'{"order_id": "o-7"}', channel="queue:payments", queue="q", foreign=foreign)

    assert (found.id, found.type, found.key) == ("x-7", "payment.charge", "o-7")


def test_headers_larger_than_a_frame_are_refused() -> None:
    with pytest.raises(ValueError, match="the server takes 4088"):
        pack(replace(MESSAGE, key="k" * 4000), frame_max=FRAME_MAX)


@pytest.mark.parametrize(
    "packed", [b"\x00\x3c\x00\x00" + b"\x00" * 8 + b"\x20\x00" + b"\x00\x00\x00\x05\x01aZ12", b"short"]
)
def test_what_cannot_be_read_carries_its_body(packed: bytes) -> None:
    message = unpack(packed, b"body", channel="queue:q", queue="queue:q/1")

    assert (message.type, message.body, message.destination) == ("unreadable", b"body", "queue:q")
    assert message.id.startswith("queue:q/1/")


def test_what_is_no_event_has_an_id_that_depends_on_all_of_it() -> None:
    def id_of(properties: commands.Basic.Properties, body: bytes = b"x", queue: str = "q/1") -> str:
        return unpack(packed_by_pamqp(properties, body), body, channel="queue:q", queue=queue).id

    plain = commands.Basic.Properties(headers={"a": "1"})
    redelivered = commands.Basic.Properties(headers={"a": "1", "x-delivery-count": 2})
    ids = [
        id_of(plain),
        id_of(plain, body=b"y"),
        id_of(commands.Basic.Properties(headers={"a": "2"})),
        id_of(commands.Basic.Properties(headers={"a": "1"}, message_id="m")),
        id_of(plain, queue="q/2"),
        id_of(plain, queue="q" * 250),
    ]

    assert len(set(ids)) == len(ids)
    assert id_of(redelivered) == ids[0]
    assert max(len(one.encode()) for one in ids) <= 200


def test_a_url_says_where_and_as_whom() -> None:
    address = address_of("amqp://shop:p%40ss@broker.example:5673/orders%2Feu?heartbeat=5&management=http://m:15672")

    assert (address.host, address.port, address.user, address.password) == ("broker.example", 5673, "shop", "p@ss")
    assert (address.virtual_host, address.heartbeat_s, address.management) == ("orders/eu", 5, "http://m:15672")
    assert "p@ss" not in repr(address)


def test_a_url_leaves_out_what_is_usual() -> None:
    address, secure = address_of("amqp://localhost"), address_of("amqps://localhost/")

    assert (address.port, address.user, address.virtual_host, address.tls) == (5672, "guest", "/", None)
    assert secure.port == 5671
    assert isinstance(secure.tls, ssl.SSLContext)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://localhost", "no URL of a RabbitMQ"),
        ("amqp://localhost:notaport", "no URL of a RabbitMQ"),
        ("amqp://localhost/?heartbeat=soon", "no URL of a RabbitMQ"),
        ("amqp://localhost/?heartbeat=0", "seconds from 1 on"),
        ("amqp://localhost/?hartbeat=5", "sets hartbeat"),
        ("amqps://localhost/?cafile=/there/is/none", "cannot be read"),
    ],
)
def test_what_is_no_url_is_refused(url: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        address_of(url)


def test_a_certificate_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("none")

    with pytest.raises(ConfigurationError, match="cannot be read"):
        address_of(f"amqps://localhost/?certfile={tmp_path}/none.pem")
