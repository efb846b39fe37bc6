"""Messages of others that are no CloudEvents: where in them their id, type and key stand.

An id is never made up: by a made-up one every redelivery would be a new message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from pillarbox.errors import ConfigurationError, DecodeError
from pillarbox.errors.values import check_values
from pillarbox.message.message import Message
from pillarbox.message.names import check_key, check_message_id

HEADER, BODY, LITERAL = "header:", "body:", "="
PLACES: Final = f"{HEADER}NAME, {BODY}FIELD.FIELD of a JSON body, or {LITERAL}TEXT for one that is always the same"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignMessages:
    """How messages of a channel are read that are no CloudEvents.

    Attributes:
        id: where the id stands: ``header:NAME``, or ``body:FIELD.FIELD`` of a JSON body.
        type: where the name of the message's type stands, or ``=TEXT`` where all are of one type.
        key: where the key stands that keeps messages in order; ``None`` for messages without.
        source: who sends them, as headers tell it.

    Raises:
        ConfigurationError: one of them says no place, or the id is the same for all.
    """

    id: str
    type: str
    key: str | None = None
    source: str = "foreign"

    def __post_init__(self) -> None:
        """Refuse what is no place."""
        check_values(self)
        for name, place in (("id", self.id), ("type", self.type), ("key", self.key)):
            allowed = (HEADER, BODY) if name != "type" else (HEADER, BODY, LITERAL)
            if place is not None and (not place.startswith(allowed) or place in allowed):
                raise ConfigurationError(f"ForeignMessages({name}={place!r}) says no place; it may be {PLACES}")

    def read(self, headers: Mapping[str, str], body: bytes, *, channel: str) -> Message:
        """Return the message.

        Raises:
            DecodeError: its id or its type is missing or cannot be one, or its body is no JSON where one is needed.
        """
        found = _Found(headers, body)
        message_type = found.at(self.type, "type")
        message_id = check_message_id(found.at(self.id, "id"), message_type=message_type)
        key = None if self.key is None else check_key(found.at(self.key, "key"), message_type=message_type)
        content_type = found.headers.get("content-type", "application/json")
        others = {name: value for name, value in headers.items() if name.lower() != "content-type"}
        return Message(
            id=message_id,
            type=message_type,
            destination=channel,
            key=key,
            content_type=content_type,
            headers={"source": self.source, **others},
            body=body,
        )


NO_FOREIGN: Final[Mapping[str, ForeignMessages]] = {}
"""Where every channel carries CloudEvents alone."""


class _Found:
    """Headers by their names in small letters, and the body's fields once they are asked for."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self.headers = {name.lower(): value for name, value in headers.items()}
        self._body = body
        self._fields: object = None

    def at(self, place: str, what: str) -> str:
        """Return what stands at ``place``, which is named ``what``."""
        if place.startswith(LITERAL):
            return place.removeprefix(LITERAL)
        if place.startswith(HEADER):
            value: object = self.headers.get(place.removeprefix(HEADER).lower())
        else:
            value = self._in_body(place.removeprefix(BODY).split("."))
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise DecodeError(reason=f"its {what} is missing: there is none at {place}")
        return str(value)

    def _in_body(self, path: list[str]) -> object:
        if self._fields is None:
            try:
                self._fields = msgspec.json.decode(self._body)
            except (ValueError, RecursionError) as error:
                raise DecodeError(reason="its body is no JSON") from error
        value = self._fields
        for field in path:
            value = cast("dict[str, Any]", value).get(field) if isinstance(value, dict) else None
        return value
