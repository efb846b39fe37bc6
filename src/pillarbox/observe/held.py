"""What happens to messages that wait in a consumer's database, as typed events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageHeld:
    """A message was put aside: its key is held, it comes after one that has not come, or another release handles it."""

    consumer: str
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldKeyFull:
    """A message was given back to its channel: ``limit`` messages or more wait behind its key, as many as may.

    It is told again from time to time, by each process that gives messages of the key back. Nothing is lost: they come
    again, in order, until there is room.
    """

    consumer: str
    message_id: str
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseAwaited:
    """A message was put aside until its consumer has processed what came before it; ``causes`` are message ids."""

    consumer: str
    message_id: str
    causes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseMissing:
    """What comes before a message does not come: not in time, as a dead letter, or because it waits for the message.

    ``trouble`` is ``missing``, ``dead`` or ``cycle``; ``outcome`` is what the consumer says is to become of the
    message: ``hold``, ``run`` or ``dead``. While it is held this is told again from time to time.
    """

    consumer: str
    message_id: str
    causes: tuple[str, ...]
    trouble: str
    outcome: str
    waited: timedelta
