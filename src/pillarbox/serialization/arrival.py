"""What came by a broker, from us or from others, as messages: CloudEvents in either mode, and what is neither."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from pillarbox.errors import DecodeError, InvalidMessageError
from pillarbox.message.message import Message
from pillarbox.serialization.cloudevents import BINARY_PREFIX, from_binary, from_structured
from pillarbox.serialization.envelope import media_type

if TYPE_CHECKING:
    from pillarbox.serialization.foreign import ForeignMessages

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
    if _NOT_IN_TEXTS.search("".join(headers.values())):
        headers = {name: _NOT_IN_TEXTS.sub(_escape, value) for name, value in headers.items()}
    content_type = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    try:
        if media_type(content_type) == STRUCTURED:
            return from_structured(_decode_event(body), destination=channel)
        return from_binary(headers, body, destination=channel, prefixes=prefixes)
    except (DecodeError, ValueError, RecursionError):
        pass
    if foreign is not None:
        try:
            return foreign.read(headers, body, channel=channel)
        except (DecodeError, InvalidMessageError):
            pass  # without an id it is nobody's duplicate, and cannot be handled once
    return unreadable(body, channel=channel, place=place, headers=headers)


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


def _escape(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"
