"""What came by a broker, from us or from others, as messages: CloudEvents in either mode, and what is neither."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from pillarbox.errors import DecodeError, InvalidMessageError
from pillarbox.message.message import Message
from pillarbox.message.names import MAX_CONTENT_TYPE_LENGTH, MAX_NAME_LENGTH
from pillarbox.serialization.cloudevents import BINARY_PREFIX, from_binary, from_structured
from pillarbox.serialization.envelope import media_type

if TYPE_CHECKING:
    from pillarbox.serialization.foreign import ForeignMessages

CONTENT_TYPE: Final = "content-type"
STRUCTURED: Final = "application/cloudevents+json"
UNREADABLE: Final = "unreadable"
"""The type of what somebody else sent and nobody can read; its consumer makes a dead letter of it."""

NO_HEADERS: Final[Mapping[str, str]] = {}

_NOT_IN_TEXTS: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no store can hold, or no terminal should be shown; it is written as an escape."""
_decode_event = msgspec.json.Decoder(dict[str, object]).decode


def arrived(
    headers: Mapping[str, str],
    body: bytes,
    *,
    channel: str,
    place: str,
    prefixes: tuple[str, ...] = (BINARY_PREFIX,),
    foreign: ForeignMessages | None = None,
) -> Message:
    """Return the message that came with ``headers`` and ``body``.

    Args:
        headers: as the broker delivered them.
        body: kept as it is, but for an event in structured mode.
        channel: where it came from.
        place: names where it lies, the same at each delivery: the id of one that is no CloudEvent. Such a one becomes
            a message of the type ``unreadable`` with its body as it is, so that it can be looked at.
        prefixes: what the headers of attributes may begin with at this broker, in small letters.
        foreign: how messages of this channel are read that are no CloudEvents.
    """
    texts, is_faulty = headers, False
    if not "".join(headers.values()).isprintable():  # most are, and this tells it soonest
        texts = {name: _NOT_IN_TEXTS.sub(_escape, value) for name, value in headers.items()}
        is_faulty = any(name.lower().startswith(prefixes) and texts[name] != value for name, value in headers.items())
    try:
        if not is_faulty and (message := _cloud_event(texts, body, channel, prefixes)) is not None:
            return fitting(message)
        if foreign is not None:
            return fitting(foreign.read(texts, body, channel=channel))
    except (DecodeError, InvalidMessageError):
        pass  # without an id it is nobody's duplicate, and cannot be handled once
    return unreadable(body, channel=channel, place=place, headers=texts)


def _cloud_event(headers: Mapping[str, str], body: bytes, channel: str, prefixes: tuple[str, ...]) -> Message | None:
    """Return the event in either mode; one of ours in binary mode may itself carry one in structured mode."""
    try:
        return from_binary(headers, body, destination=channel, prefixes=prefixes)
    except DecodeError:
        pass
    if media_type(next((value for name, value in headers.items() if name.lower() == CONTENT_TYPE), "")) != STRUCTURED:
        return None
    try:
        message = from_structured(_decode_event(body), destination=channel)
    except (DecodeError, ValueError, RecursionError):
        return None
    others = {name: value for name, value in headers.items() if name.lower() != CONTENT_TYPE}
    return replace(message, headers={**others, **message.headers})


def fitting(message: Message) -> Message:
    """Return ``message`` as every store can hold it, a content type that is too long without its parameters.

    Raises:
        DecodeError: not even a dead letter could hold its type, or its content type.
    """
    if len(message.type) > MAX_NAME_LENGTH or _is_no_text(message.type) or _is_no_text(message.content_type):
        raise DecodeError(reason=f"its type is longer than {MAX_NAME_LENGTH} characters, or no text")
    if len(message.content_type) <= MAX_CONTENT_TYPE_LENGTH:
        return message
    kind = media_type(message.content_type)
    if len(kind) > MAX_CONTENT_TYPE_LENGTH:
        raise DecodeError(
            message_type=message.type, reason=f"its content type is longer than {MAX_CONTENT_TYPE_LENGTH} characters"
        )
    return replace(message, content_type=kind)


def unreadable(body: bytes, *, channel: str, place: str, headers: Mapping[str, str] = NO_HEADERS) -> Message:
    """Return a message that carries what cannot be read, so that its consumer can put it aside."""
    return Message(
        id=place,
        type=UNREADABLE,
        destination=channel,
        key=None,
        content_type="application/octet-stream",
        headers=dict(headers),
        body=body,
    )


def _is_no_text(value: str) -> bool:
    return not value.isprintable() and _NOT_IN_TEXTS.search(value) is not None


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code:02x}"  # a byte that was no text, by its value
