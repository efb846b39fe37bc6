"""A message as a flow sees it: its envelope, without its body."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from pillarbox.errors import DecodeError
from pillarbox.flow.participant import Passage
from pillarbox.message import Message

TRACKER = "flow-tracker"
"""The name of the consumer that watches flows, in every service that declares some."""
LONGEST = 200
"""Bytes of an id that are kept; ours are shorter, those of others may be of any length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenMessage:
    """A message of a flow.

    Attributes:
        service: who published it; empty where that is not known.
        causation_id: the message whose handling published it; ``None`` for the first of its process.
        cause: what that message was, so that it is known also where it was not seen.
        hop: how many messages stand between it and the first one.
        published_at: by its publisher's clock.
        seen_at: by this database's clock; ``None`` where it is only known from what it caused.
    """

    correlation_id: str
    message_id: str
    passage: Passage
    service: str = ""
    causation_id: str | None = None
    cause: Passage | None = None
    hop: int = 0
    published_at: datetime | None = None
    seen_at: datetime | None = None

    @property
    def type(self) -> str:
        """The logical name of its type."""
        return self.passage.type


class HandlingState(StrEnum):
    """What a consumer has made of a message.

    ```mermaid
    stateDiagram-v2
        [*] --> handled
        [*] --> waiting: a retry, a held key
        waiting --> handled
        waiting --> dead
        [*] --> dead
        dead --> waiting: replayed
        dead --> discarded
    ```
    """

    HANDLED = "handled"
    WAITING = "waiting"
    DEAD = "dead"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """What one consumer has made of one message.

    Attributes:
        at: when it was handled, or failed last.
        attempts: how often its handler has failed; 0 where that is not kept.
    """

    consumer: str
    message_id: str
    state: HandlingState
    at: datetime | None = None
    attempts: int = 0


def seen(message: Message) -> SeenMessage:
    """Return what a flow keeps of ``message``; what others wrote into its headers is taken as far as it can be read."""
    causation_id, cause = message.causation_id, None
    with suppress(DecodeError):
        found = next((one for one in message.causes if one.id == causation_id), None)
        if found is not None and _fits(found.type) and _fits(found.destination):
            cause = Passage(found.type, found.destination)
    hop, published_at = 0, None
    with suppress(DecodeError):
        hop = message.hop
    with suppress(DecodeError):
        published_at = message.time
    return SeenMessage(
        correlation_id=fitting(message.correlation_id),
        message_id=fitting(message.id),
        passage=Passage(message.type, message.destination),
        service=message.source if message.source is not None and _fits(message.source) else "",
        causation_id=None if causation_id is None else fitting(causation_id),
        cause=cause,
        hop=hop,
        published_at=published_at,
    )


def fitting(identity: str) -> str:
    """Return ``identity`` as it is stored: itself, or its digest where a column would not take it."""
    if _fits(identity):
        return identity
    return f"sha256:{sha256(identity.encode('utf-8', 'backslashreplace')).hexdigest()}"


def _fits(text: str) -> bool:
    return text.isprintable() and len(text.encode()) <= LONGEST  # a lone surrogate is not printable
