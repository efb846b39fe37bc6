"""Causes: which messages come before a message, as one of its headers names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec


class Cause(NamedTuple):
    """A message that comes before another one, named so that a consumer can tell whether it ever sees it.

    Attributes:
        id: the message's id.
        type: the logical name of its type.
        destination: the address that it was sent to, such as ``topic:order``.
    """

    id: str
    type: str
    destination: str


_decode = msgspec.json.Decoder(tuple[Cause, ...]).decode


def pack_causes(causes: Sequence[Cause]) -> str:
    """Return ``causes`` as a header's value.

    Raises:
        ValueError: one of them is no text that can travel.
    """
    return msgspec.json.encode(causes).decode()


def unpack_causes(text: str) -> tuple[Cause, ...]:
    """Read a header's value.

    Raises:
        ValueError: it holds something else.
    """
    return _decode(text)
