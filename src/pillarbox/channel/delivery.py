"""A message on its way into a consumer, and what became of it."""

from __future__ import annotations

from collections.abc import Hashable
from enum import StrEnum

import msgspec

from pillarbox.message import Message


class PutAside(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker tells of a message that it would not deliver any more.

    EIP: *Dead Letter Channel*, the messaging system's own.

    Attributes:
        reason: the broker's word for it, such as ``expired``.
        place: where the message lay then.
    """

    reason: str
    place: str


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One copy of a message as a receiver handed it over.

    Attributes:
        message: the message; its body is as the broker delivered it.
        receipt: what the receiver needs to settle it; opaque to everybody else.
        put_aside: its broker would not deliver it, and it is to be buried instead of handled.
    """

    message: Message
    receipt: Hashable
    put_aside: PutAside | None = None


class Outcome(StrEnum):
    """What a consumer answers for a delivery.

    ``accepted`` follows a durable result: processed, held or dead. ``returned`` means that nothing durable happened
    and the message must come again.
    """

    ACCEPTED = "accepted"
    RETURNED = "returned"
