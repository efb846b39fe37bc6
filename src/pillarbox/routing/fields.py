"""Where in a message a rule looks: ``type``, ``header.region``, ``body.customer.tier``, ``body.items.0.sku``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias, cast

from pillarbox.errors import ConfigurationError
from pillarbox.routing.view import RoutedMessage


class Missing(Enum):
    """What a field that is not there holds; JSON's ``null`` is a value."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
Found: TypeAlias = "object | Literal[Missing.MISSING]"

TEXTS = ("id", "type", "key", "channel")
_HEADER = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
KNOWN = "id, type, version, key, channel, header.NAME, body, body.NAME.NAME…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A place in a message.

    Attributes:
        text: as it was written.
        root: ``body``, ``header``, or an attribute of the envelope.
        path: the header's name, or the steps into the body: names, and numbers that count a list from 0.
    """

    text: str
    root: str
    path: tuple[str, ...] = ()

    @property
    def holds(self) -> str | None:
        """The kind of value that is always there; ``None`` where only the message tells."""
        return "number" if self.root == "version" else None if self.root == "body" else "text"

    def read(self, message: RoutedMessage) -> Found:
        """Return what ``message`` holds there.

        Raises:
            DecodeError: the body cannot be read.
        """
        match self.root:
            case "body":
                found: Found = message.body
                for step in self.path:
                    found = _step(found, step)
                return found
            case "header":
                return message.headers.get(self.path[0], MISSING)
            case attribute:
                value: object = getattr(message, attribute)
                return MISSING if value is None else value


def field_at(text: object) -> Field:
    """Return the field that ``text`` names.

    Raises:
        ConfigurationError: it names none.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"a field is named by a text, not by {text!r}; there are {KNOWN}")
    root, dot, rest = text.partition(".")
    if root in (*TEXTS, "version") and not dot:
        return Field(text=text, root=root)
    if root == "header" and _HEADER.fullmatch(rest):
        return Field(text=text, root=root, path=(rest,))
    if root == "body" and (not dot or all(rest.split("."))):
        return Field(text=text, root=root, path=tuple(rest.split(".")) if dot else ())
    raise ConfigurationError(f"{text!r} names no field of a message; there are {KNOWN}")


def _step(found: Found, step: str) -> Found:
    if isinstance(found, Mapping):
        return cast("Mapping[str, object]", found).get(step, MISSING)
    if isinstance(found, Sequence) and not isinstance(found, (str, bytes)):
        items = cast("Sequence[object]", found)
        if step.isascii() and step.isdigit() and len(step) < 10 and int(step) < len(items):
            return items[int(step)]
    return MISSING
