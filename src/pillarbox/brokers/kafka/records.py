"""Messages as Kafka records, and back: CloudEvents in binary mode, so that others read them and we read theirs.

Source: CloudEvents 1.0.2, *Kafka Protocol Binding*.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from pillarbox.errors import InvalidMessageError
from pillarbox.message import Message
from pillarbox.message.headers import SOURCE
from pillarbox.message.names import MAX_MESSAGE_ID_BYTES, check_key
from pillarbox.serialization import ForeignMessages, arrived, to_binary

Headers: TypeAlias = Iterable[tuple[str, bytes | None]]

SUBJECT: Final = "subject"
UNNAMED: Final = "urn:pillarbox:unnamed"
"""Stands for the source of a message that names none, since CloudEvents demand one."""


class Place(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a record lies, and since when: a topic that is made anew counts from 0 again."""

    topic: str
    partition: int
    offset: int
    since_ms: int

    @property
    def identity(self) -> str:
        """What identifies a record that bears no id of its own."""
        text = f"kafka/{self.topic}/{self.partition}/{self.offset}@{self.since_ms}"
        return text if len(text) <= MAX_MESSAGE_ID_BYTES else f"kafka/{sha256(text.encode()).hexdigest()}"


def key_of(message: Message) -> str:
    """Return the key of the record: it decides the partition. A message without a key goes by its id."""
    return message.id if message.key is None else message.key


def headers_of(message: Message) -> dict[str, str]:
    """Return the headers of the record, to be sent in UTF-8; its value is the body as it is."""
    if not message.headers.get(SOURCE):
        message = replace(message, headers={**message.headers, SOURCE: UNNAMED})
    return to_binary(message)


def message_from(
    headers: Headers,
    *,
    key: bytes | None,
    value: bytes | None,
    channel: str,
    place: Place,
    foreign: ForeignMessages | None = None,
) -> Message:
    """Return the message of a record; of one that nobody can read one of the type ``unreadable``."""
    texts = {name.lower(): (raw or b"").decode("utf-8", "surrogateescape") for name, raw in headers}
    return _with_key(arrived(texts, value or b"", channel=channel, place=place.identity, foreign=foreign), key)


def _with_key(message: Message, raw: bytes | None) -> Message:
    """Give ``message`` the key of its record, by which Kafka kept it in order; a subject that differs is a header."""
    if not raw or raw == message.id.encode():
        return message
    key = _key_text(raw)
    if message.key is None or message.key == key:
        return message if message.key == key else replace(message, key=key)
    return replace(message, key=key, headers={**message.headers, SUBJECT: message.key})


def _key_text(raw: bytes) -> str:
    """Return the key as text; for one that is none, or too long, a text that is the same for the same key."""
    try:
        return check_key(raw.decode(), message_type="record")
    except (UnicodeDecodeError, InvalidMessageError):
        return f"sha256:{sha256(raw).hexdigest()}"
