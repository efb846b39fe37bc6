"""Messages as Kafka records, and back: CloudEvents in binary mode, so that others read them and we read theirs.

Source: CloudEvents 1.0.2, *Kafka Protocol Binding*.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from pillarbox.errors import DecodeError, InvalidMessageError
from pillarbox.message import Message
from pillarbox.message.headers import SOURCE
from pillarbox.message.names import MAX_MESSAGE_ID_BYTES, check_key
from pillarbox.serialization.cloudevents import BINARY_PREFIX, from_binary, from_structured, to_binary

Headers: TypeAlias = Iterable[tuple[str, bytes | None]]

UNREADABLE: Final = "unreadable"
"""The type of what somebody else put into a topic and nobody can read; its consumer makes a dead letter of it."""
UNNAMED: Final = "urn:pillarbox:unnamed"
"""Stands for the source of a message that names none, since CloudEvents demand one."""
SUBJECT: Final = "subject"

_SPEC_VERSION: Final = f"{BINARY_PREFIX}specversion"
_CONTENT_TYPE: Final = "content-type"
_STRUCTURED: Final = "application/cloudevents+json"
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
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


def message_from(headers: Headers, *, key: bytes | None, value: bytes | None, channel: str, place: Place) -> Message:
    """Return the message of a record; of one that is no CloudEvent one of the type ``unreadable``."""
    body = value or b""
    texts = {name.lower(): raw or b"" for name, raw in headers}
    try:
        message = _cloud_event(texts, body, channel)
    except DecodeError:
        message = _unreadable(texts, body, channel, place)
    return _with_key(message, key)


def _cloud_event(texts: Mapping[str, bytes], body: bytes, channel: str) -> Message:
    kind = _text(texts.get(_CONTENT_TYPE, b"")).partition(";")[0].strip().lower()
    if _SPEC_VERSION not in texts and kind == _STRUCTURED:
        message = from_structured(_json(body), destination=channel)
        own = {name: _text(raw) for name, raw in texts.items() if name != _CONTENT_TYPE}
        return replace(message, headers={**own, **message.headers})
    message = from_binary({name: _checked(name, raw) for name, raw in texts.items()}, body, destination=channel)
    if message.headers.get(SOURCE) == UNNAMED:
        return replace(message, headers={name: text for name, text in message.headers.items() if name != SOURCE})
    return message


def _unreadable(texts: Mapping[str, bytes], body: bytes, channel: str, place: Place) -> Message:
    headers = {name: _text(raw) for name, raw in texts.items()}
    content_type = headers.pop(_CONTENT_TYPE, "") or "application/octet-stream"
    return Message(
        id=place.identity,
        type=UNREADABLE,
        destination=channel,
        key=None,
        content_type=content_type,
        headers=headers,
        body=body,
    )


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
        return check_key(raw.decode(), message_type=UNREADABLE)
    except (UnicodeDecodeError, InvalidMessageError):
        return f"sha256:{sha256(raw).hexdigest()}"


def _json(body: bytes) -> Mapping[str, object]:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (ValueError, RecursionError) as error:
        raise DecodeError(reason="it is no JSON object") from error


def _checked(name: str, raw: bytes) -> str:
    """Return a header as text; an attribute of a CloudEvent must be one."""
    text = _text(raw)
    if name.startswith(BINARY_PREFIX) and text.encode() != raw:
        raise DecodeError(reason=f"its header {name!r} is no text without control characters")
    return text


def _text(raw: bytes) -> str:
    """Return bytes as text that every store can hold; what is no such text is written as an escape."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", raw.decode(errors="backslashreplace"))
