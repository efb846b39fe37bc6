"""A message that waits in the consumer's database instead of the broker, and the key it waits for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from pillarbox.message import Message

MAX_HOLD_KEY_BYTES = 600
"""The width of the column."""


class HeldState(StrEnum):
    """Why a message waits.

    ``retrying`` and ``replaying`` messages stand at the head of their key; ``held`` ones wait behind such a head.
    """

    RETRYING = "retrying"
    HELD = "held"
    REPLAYING = "replaying"


class HoldState(StrEnum):
    """Whether a held key can be drained: ``waiting`` for its head to be due, or ``blocked`` by a dead letter."""

    WAITING = "waiting"
    BLOCKED = "blocked"


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One failed attempt in a message's history.

    Attributes:
        attempt: its number, counted from 1.
        at: when it failed.
        error_type: the exception's class.
        error: its text, cut to a length that can be stored.
    """

    attempt: int
    at: datetime
    error_type: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMessage:
    """A message put aside.

    Attributes:
        hold_key: what it is held under, see ``hold_key_of``.
        attempts: how often its handler has been invoked.
        due_in: how long it waits from now on.
        history: its failed attempts, oldest first.
    """

    hold_key: str
    message: Message
    state: HeldState
    attempts: int = 0
    due_in: timedelta = timedelta(0)
    history: tuple[FailedAttempt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A key to be held.

    Attributes:
        due_in: when its head may run, counted from now.
    """

    hold_key: str
    state: HoldState = HoldState.WAITING
    due_in: timedelta = timedelta(0)


def storable(text: str) -> str:
    """Return ``text`` without what no database or JSON text takes: NUL characters and lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def hold_key_of(message: Message, *, ordered: bool) -> str:
    """Return what ``message`` is held under: its key where order counts, else itself."""
    if ordered and message.key is not None:
        return f"k:{message.key}"
    return own_hold_key(message.id)


def channel_hold_key_of(message: Message) -> str:
    """Return what ``message`` is held under where the order of a key is each channel's own: both, else itself."""
    if message.key is None:
        return own_hold_key(message.id)
    plain = f"k:{message.destination}/{message.key}"
    if len(plain.encode()) <= MAX_HOLD_KEY_BYTES:
        return plain
    return f"k:#{hashlib.sha256(message.destination.encode()).hexdigest()[:16]}/{message.key}"


STOP = "s:"
"""How the holds begin that stop a whole consumer."""


def stop_key_of(message_id: str) -> str:
    """Return the hold by which a dead message stops its consumer."""
    return f"{STOP}{message_id}"


def is_stop_key(hold_key: str) -> bool:
    """Tell whether a hold stops its consumer."""
    return hold_key.startswith(STOP)


EVERYTHING = "a:"
"""What all messages of a consumer are held under that handles one at a time."""


OWN = "m:"
"""Before the id of a message that is held alone."""


def own_hold_key(message_id: str) -> str:
    """Return the hold of one message alone; a dead letter keeps it so that a late duplicate is not handled."""
    return f"{OWN}{message_id}"
