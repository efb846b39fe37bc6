"""AMQP 0-9-1 as bytes: what is sent and received for every message, packed and read by hand.

Everything that is rare (declaring, opening, closing) is left to pamqp. For messages pamqp, in Python and by an object
for each field, would cost more than everything else that a relay and a consumer do for them.
Source: AMQP 0-9-1 specification, sections 2.3.5 and 4.2; RabbitMQ, *AMQP 0-9-1 errata* for the types of fields.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pamqp import commands, decode, frame
from pamqp.base import Frame

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END: Final = b"\xce"
END_BYTE: Final = 0xCE
OVERHEAD: Final = 8
"""Bytes of a frame beside what it carries."""
GREETING: Final = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

PUBLISH, RETURN, DELIVER, ACK, NACK = (60, 40), (60, 50), (60, 60), (60, 80), (60, 120)
CONTENT_TYPE, ENCODING, HEADERS, DELIVERY_MODE, PRIORITY, CORRELATION_ID, REPLY_TO = (
    1 << bit for bit in range(15, 8, -1)
)
EXPIRATION, MESSAGE_ID, TIMESTAMP, TYPE = (1 << bit for bit in range(8, 4, -1))
PERSISTENT: Final = b"\x02"
LONGEST_SHORT: Final = 255

_frame_head = struct.Struct(">BHI")
_method = struct.Struct(">HH")
_content = struct.Struct(">HHQH")
_long = struct.Struct(">I")
_ack = struct.Struct(">BHIHHQBB")
_tag = struct.Struct(">Q")
_SHORT_TEXTS = (ENCODING, CORRELATION_ID, REPLY_TO, EXPIRATION)
Method = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """What travels with a body; a type or a content type of ``None`` is not there.

    Attributes:
        headers: by name, as the library that reads the rare types makes them; texts are ``str``.
    """

    content_type: str | None
    type: str | None
    message_id: str | None
    headers: Mapping[str, Any]


def short(text: str) -> bytes:
    """Pack a short text.

    Raises:
        ValueError: it is longer than 255 bytes.
    """
    raw = text.encode()
    if len(raw) > LONGEST_SHORT:
        raise ValueError(f"{text[:60]!r}… is longer than {LONGEST_SHORT} bytes")
    return bytes((len(raw),)) + raw


def method_frame(method: Frame, channel: int) -> bytes:
    """Pack a rare method."""
    return frame.marshal(method, channel)


def read_method(payload: bytes) -> Frame:
    """Read a rare method."""
    _, _, method = frame.unmarshal(_frame_head.pack(METHOD, 1, len(payload)) + payload + END)
    assert isinstance(method, Frame), method
    return method


def method_of(payload: bytes) -> Method:
    """Return which method a frame carries."""
    return _method.unpack_from(payload)


def publish_frame(channel: int, exchange: str, routing_key: str) -> bytes:
    """Pack the method that sends a message which must be returned if no queue takes it."""
    return method_frame(commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True), channel)


def pack_properties(properties: Properties, body_bytes: int) -> bytes:
    """Pack the properties of a persistent message whose body has ``body_bytes``.

    Raises:
        ValueError: a text is too long.
    """
    flags = HEADERS | DELIVERY_MODE
    parts = [b""]
    if properties.content_type is not None:
        flags |= CONTENT_TYPE
        parts.append(short(properties.content_type))
    table = b"".join([short(name) + b"S" + _long.pack(len(raw)) + raw for name, raw in _raw(properties.headers)])
    parts += (_long.pack(len(table)), table, PERSISTENT)
    if properties.message_id is not None:
        flags |= MESSAGE_ID
        parts.append(short(properties.message_id))
    if properties.type is not None:
        flags |= TYPE
        parts.append(short(properties.type))
    parts[0] = _content.pack(60, 0, body_bytes, flags)
    return b"".join(parts)


def content_frames(channel: int, packed: bytes, body: bytes, *, frame_max: int) -> bytes:
    """Put packed properties and a body into frames of at most ``frame_max`` bytes."""
    parts = [_frame_head.pack(HEADER, channel, len(packed)), packed, END]
    room = frame_max - OVERHEAD
    for begin in range(0, len(body), room):
        piece = body if len(body) <= room else body[begin : begin + room]
        parts += (_frame_head.pack(BODY, channel, len(piece)), piece, END)
    return b"".join(parts)


def body_size_of(packed: bytes) -> int:
    """Return how long the body is that follows packed properties."""
    size: int = _content.unpack_from(packed)[2]
    return size


def read_properties(packed: bytes) -> Properties:
    """Read packed properties.

    Raises:
        ValueError: they cannot be read.
    """
    flags = _content.unpack_from(packed)[3]
    at = _content.size
    content_type = message_id = kind = None
    headers: dict[str, Any] = {}
    if flags & CONTENT_TYPE:
        content_type, at = _read_short(packed, at)
    if flags & ENCODING:
        _, at = _read_short(packed, at)
    if flags & HEADERS:
        headers, at = _read_table(packed, at)
    at += bool(flags & DELIVERY_MODE) + bool(flags & PRIORITY)
    for flag in (CORRELATION_ID, REPLY_TO, EXPIRATION):
        if flags & flag:
            _, at = _read_short(packed, at)
    if flags & MESSAGE_ID:
        message_id, at = _read_short(packed, at)
    at += 8 * bool(flags & TIMESTAMP)
    if flags & TYPE:
        kind, at = _read_short(packed, at)
    return Properties(content_type=content_type, type=kind, message_id=message_id, headers=headers)


def read_delivery_tag(payload: bytes) -> int:
    """Return the tag of a delivery: it follows the consumer's name."""
    tag: int = _tag.unpack_from(payload, 5 + payload[4])[0]
    return tag


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """Return the tag of a confirm of either kind, and whether it is of all before it as well."""
    tag: int = _tag.unpack_from(payload, 4)[0]
    return tag, bool(payload[12] & 1)


def ack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Pack the acknowledgement of a delivery, or of all up to it."""
    return _ack.pack(METHOD, channel, 13, *ACK, tag, multiple, END_BYTE)


def _raw(headers: Mapping[str, str]) -> list[tuple[str, bytes]]:
    return [(name, value.encode()) for name, value in headers.items()]


def _read_short(packed: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + packed[at]
    return packed[at + 1 : end].decode(errors="replace"), end


def _read_table(packed: bytes, at: int) -> tuple[dict[str, Any], int]:
    begin = at + 4
    end = begin + _long.unpack_from(packed, at)[0]
    at = begin
    found: dict[str, Any] = {}
    while at < end:
        name, at = _read_short(packed, at)
        if packed[at] == 83:  # "S"
            value_end = at + 5 + _long.unpack_from(packed, at + 1)[0]
            found[name] = packed[at + 5 : value_end].decode(errors="replace")
            at = value_end
        else:
            used, found[name] = decode.embedded_value(packed[at:])
            at += used
    return found, end
