"""Messages as entries of a stream, and back."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pillarbox.errors import DecodeError, InvalidMessageError
from pillarbox.message import Message
from pillarbox.message.names import check_key, check_message_id
from pillarbox.serialization import fitting, unreadable

_decode_headers = msgspec.json.Decoder(dict[str, str]).decode
_encode_headers = msgspec.json.Encoder().encode


def fields_of(message: Message) -> list[bytes | str]:
    """Return the fields of an entry, each name followed by its value; ``key`` is left out where there is none."""
    key: list[bytes | str] = [] if message.key is None else ["key", message.key]
    return [
        "id",
        message.id,
        "type",
        message.type,
        *key,
        "contenttype",
        message.content_type,
        "headers",
        _encode_headers(message.headers),
        "body",
        message.body,
    ]


def message_from(fields: Sequence[bytes], *, channel: str, place: str) -> Message:
    """Return the message of an entry.

    Args:
        fields: as Redis returns them, each name followed by its value.
        channel: where it was found.
        place: names the entry, for one that is no message of ours: it then becomes one of the type ``unreadable``
            with all that it holds as its body.
    """
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    try:
        key, message_type = found.get(b"key"), found[b"type"].decode()
        message = Message(
            id=check_message_id(found[b"id"].decode(), message_type=message_type),
            type=message_type,
            destination=channel,
            key=None if key is None else check_key(key.decode(), message_type=message_type),
            content_type=found[b"contenttype"].decode(),
            headers=_decode_headers(found[b"headers"]),
            body=found[b"body"],
        )
        return fitting(message)
    except (KeyError, ValueError, DecodeError, InvalidMessageError):  # UnicodeDecodeError and msgspec's: ValueErrors
        return unreadable(b"\n".join(fields), channel=channel, place=place)
