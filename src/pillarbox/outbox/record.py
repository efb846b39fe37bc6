"""The row that is written with the caller's data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias
from zlib import crc32

import msgspec

from pillarbox.errors import InternalError
from pillarbox.message import Message

Line: TypeAlias = tuple[str, str]
"""A destination and one of its keys: what numbers are counted in."""

SLOTS = 64
"""Relay instances divide the outbox by this many slots."""

LOCK_BUCKETS = 1024
"""Keys are locked by bucket, so that one transaction takes at most this many locks, however many keys it has.

A multiple of ``SLOTS``, so that every bucket lies in one slot.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRecord:
    """A message as it is stored, and when it is due.

    Attributes:
        message: the message; its body and headers are moved, never parsed again.
        bucket: a stable hash of destination and key (of the id where there is no key), below ``LOCK_BUCKETS``.
        due_in: how long the message is held back; ``None`` for at once.
        numbered: its key counts its messages: the store gives it a number as it is appended, unless it has one.
        number: the number that it was given.
    """

    message: Message
    bucket: int
    due_in: timedelta | None = None
    numbered: bool = False
    number: int | None = None

    @property
    def line(self) -> Line:
        """The destination and key that its number counts in.

        Raises:
            InternalError: it has no key.
        """
        if self.message.key is None:
            raise InternalError(f"message {self.message.id} is numbered and has no key")
        return self.message.destination, self.message.key

    @property
    def slot(self) -> int:
        """The slot whose owner publishes this record; all records of a key share it."""
        return self.bucket % SLOTS

    @property
    def headers_json(self) -> str:
        """The headers as JSON text."""
        return msgspec.json.encode(self.message.headers).decode()


def record_of(message: Message, *, due_in: timedelta | None = None, numbered: bool = False) -> OutboxRecord:
    """Make the record of ``message``."""
    return OutboxRecord(message=message, bucket=bucket_of(message), due_in=due_in, numbered=numbered)


def bucket_of(message: Message) -> int:
    """Return the bucket of a message: the same in every process and on every platform."""
    return bucket_for(message.destination, message.key, message_id=message.id)


def bucket_for(destination: str, key: str | None, *, message_id: str) -> int:
    """Return the bucket of a destination's key, or where there is no key one drawn from the message's id."""
    spread_by = message_id if key is None else f"{destination}\0{key}"
    return crc32(spread_by.encode()) % LOCK_BUCKETS
