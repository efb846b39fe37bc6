"""What came by a broker, from us or from others, as messages: CloudEvents in either mode, and what is neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pillarbox.errors import DecodeError, InvalidMessageError
from pillarbox.message.message import Message
from pillarbox.serialization.cloudevents import BINARY_PREFIX, from_binary, from_structured
from pillarbox.serialization.envelope import media_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillarbox.serialization.foreign import ForeignMessages

STRUCTURED: Final = "application/cloudevents+json"
UNREADABLE: Final = "unreadable"
"""The type of what somebody else sent and nobody can read; its consumer makes a dead letter of it."""

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
    return unreadable(body, channel=channel, place=place)


def unreadable(body: bytes, *, channel: str, place: str) -> Message:
    """Return a message that carries what cannot be read, so that its consumer can put it aside."""
    return Message(
        id=place,
        type=UNREADABLE,
        destination=channel,
        key=None,
        content_type="application/octet-stream",
        headers={},
        body=body,
    )
