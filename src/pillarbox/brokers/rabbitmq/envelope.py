"""Messages as CloudEvents in binary mode over AMQP 0-9-1, and what others send.

Source: CloudEvents, *AMQP Protocol Binding*, whose application properties are the headers of AMQP 0-9-1.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, cast

import msgspec
from msgspec.structs import replace

from pillarbox.brokers.rabbitmq import frames
from pillarbox.brokers.rabbitmq.frames import LONGEST_SHORT, OVERHEAD, Properties
from pillarbox.channel.delivery import PutAside
from pillarbox.message import Message
from pillarbox.message.headers import SOURCE
from pillarbox.message.names import MAX_MESSAGE_ID_BYTES
from pillarbox.serialization import ForeignMessages, arrived, to_binary, unreadable

WRITTEN_PREFIX: Final = "cloudEvents:"
READ_PREFIXES: Final = (WRITTEN_PREFIX.lower(), "cloudevents_")
"""The binding admits both, and the official SDK writes the other one."""
CONTENT_TYPE, MESSAGE_ID, TYPE = "content-type", "message-id", "type"
UNREADABLE_PROPERTIES: Final = (ValueError, IndexError, OverflowError, RecursionError, struct.error)
UNNAMED: Final = "/"
"""The source of a message that names none, which CloudEvents demands; it is taken off again."""
OF_THE_SERVER: Final = frozenset({"x-delivery-count", "x-acquired-count"})
"""What the server adds at a redelivery, which must be the same message."""
ORDERS: Final = frozenset({"CC", "BCC"})
"""By these the server is told where else to put a message: they were meant for where it came from."""
DEATHS: Final = "x-death"
OF_A_DEATH: Final = frozenset(
    {DEATHS, *(f"x-{which}-death-{fact}" for which in ("first", "last") for fact in ("reason", "queue", "exchange"))}
)
"""What the server adds to a message that it puts aside, which must be the same message."""
REASONS: Final = frozenset({"delivery_limit", "expired", "maxlen", "rejected"})
"""Why the server puts a message aside. Source: RabbitMQ, *Dead Letter Exchanges*."""
UNTOLD: Final = "put-aside"


def pack(message: Message, *, frame_max: int) -> bytes:
    """Return the packed properties of ``message``.

    Raises:
        ValueError: AMQP cannot carry them; the text says why.
    """
    if not message.headers.get(SOURCE):
        message = replace(message, headers={**message.headers, SOURCE: UNNAMED})
    if not ORDERS.isdisjoint(message.headers):
        raise ValueError("RabbitMQ cannot carry a header of the name CC or BCC: it would take it for an order")
    headers = to_binary(message, prefix=WRITTEN_PREFIX)
    properties = Properties(
        content_type=headers.pop(CONTENT_TYPE) if _is_short(message.content_type) else None,
        type=message.type if _is_short(message.type) else None,
        message_id=message.id,
        headers=headers,
    )
    packed = frames.pack_properties(properties, len(message.body))
    if len(packed) > frame_max - OVERHEAD:
        raise ValueError(f"its headers are {len(packed)} bytes long, the server takes {frame_max - OVERHEAD}")
    return packed


def unpack(
    packed: bytes,
    body: bytes,
    *,
    channel: str,
    queue: str,
    foreign: ForeignMessages | None = None,
    was_put_aside: bool = False,
) -> Message:
    """Return the message that came with packed properties; one of the type ``unreadable`` for what is no CloudEvent.

    Args:
        packed: the properties as they came.
        body: as it came.
        channel: where it was sent.
        foreign: how messages of the channel are read that are no CloudEvents.
        queue: where it lay; it and all that came name a message that is no CloudEvent.
        was_put_aside: the server has put it aside since, and has added headers.
    """
    added = OF_THE_SERVER | OF_A_DEATH | ORDERS if was_put_aside else OF_THE_SERVER | ORDERS
    try:
        properties = frames.read_properties(packed)
    except UNREADABLE_PROPERTIES:
        return unreadable(body, channel=channel, place=_place(packed, body, queue))
    headers = {
        name: value if type(value) is str else text_of(value)
        for name, value in properties.headers.items()
        if name not in added
    }
    if properties.content_type is not None:
        headers[CONTENT_TYPE] = properties.content_type
    if foreign is not None:  # most who send something of their own name it by these properties
        named = {MESSAGE_ID: properties.message_id, TYPE: properties.type}
        headers = {**{name: text for name, text in named.items() if text is not None}, **headers}
    message = arrived(headers, body, channel=channel, place=UNNAMED, prefixes=READ_PREFIXES, foreign=foreign)
    if message.id == UNNAMED:
        return replace(message, id=_place({**headers, MESSAGE_ID: properties.message_id}, body, queue))
    if message.headers.get(SOURCE) == UNNAMED:
        return replace(message, headers={name: text for name, text in message.headers.items() if name != SOURCE})
    return message


def read_death(packed: bytes, *, queue: str) -> PutAside:
    """Return why, and from which partition, the server put a message aside that lies in the dead ``queue`` now.

    Of what somebody else put there it says neither.
    """
    try:
        told = frames.read_properties(packed).headers.get(DEATHS)
    except UNREADABLE_PROPERTIES:
        told = None
    place = queue.rpartition("/")[0]
    deaths = cast("list[Mapping[str, Any] | None]", told) if isinstance(told, list) else []
    for death in deaths:  # the latest is the first
        if not isinstance(death, Mapping):
            continue
        died_in, reason = text_of(death.get("queue")), text_of(death.get("reason"))
        begins, _, number = died_in.rpartition("/")
        if begins == place and number.isdecimal():
            return PutAside(reason=reason if reason in REASONS else UNTOLD, place=died_in)
    return PutAside(reason=UNTOLD, place=queue)


def text_of(value: Any) -> str:
    """Return the text of a header's value, of whatever type AMQP knows."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping | list):
        return msgspec.json.encode(value, enc_hook=text_of).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _place(identity: Mapping[str, Any] | bytes, body: bytes, queue: str) -> str:
    """Name what is no CloudEvent: the same at each delivery, and another for what differs in anything."""
    known = identity if isinstance(identity, bytes) else repr(sorted(identity.items())).encode()
    digest = sha256(b"\0".join((queue.encode(), known, body))).hexdigest()[:32]
    place = f"{queue}/{digest}"
    return place if len(place.encode()) <= MAX_MESSAGE_ID_BYTES else digest


def _is_short(text: str) -> bool:
    return len(text.encode()) <= LONGEST_SHORT
