"""A message on its way into a consumer, and what became of it."""

from __future__ import annotations

from collections.abc import Hashable
from enum import StrEnum

import msgspec

from pillarbox.message import Message


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One copy of a message as a receiver handed it over.

    Attributes:
        message: the message; its body is as the broker delivered it.
        receipt: what the receiver needs to settle it; opaque to everybody else.
    """

    message: Message
    receipt: Hashable


class Outcome(StrEnum):
    """What a consumer answers for a delivery.

    ``accepted`` follows a durable result: processed, held or dead. ``returned`` means that nothing durable happened
    and the message must come again.
    """

    ACCEPTED = "accepted"
    RETURNED = "returned"
