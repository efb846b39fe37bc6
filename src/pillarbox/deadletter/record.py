"""A message that a consumer could not handle, with everything needed to understand it and to try again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from pillarbox.holding import FailedAttempt
from pillarbox.message import Message


class DeadLetterState(StrEnum):
    """Where a dead letter stands: ``dead → replaying → resolved | dead``, or ``dead → discarded``."""

    DEAD = "dead"
    REPLAYING = "replaying"
    RESOLVED = "resolved"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Burial:
    """A message on its way into the dead letters.

    Attributes:
        hold_key: the hold that it blocks.
        reason: ``permanent``, ``exhausted``, ``undecodable``, ``no-business-key``, ``crashed``, or a broker's own word,
            as ``expired``, for what it put aside.
        attempts: how often the handler was invoked.
        history: the failed attempts, the last one included.
        stack: the last failure's stack, cut.
        fingerprint: equal for failures of the same cause.
    """

    hold_key: str
    message: Message
    reason: str
    attempts: int
    history: tuple[FailedAttempt, ...]
    stack: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A dead letter as it is stored.

    EIP: *Dead Letter Channel*; an undecodable message (*Invalid Message Channel*) carries that reason.

    Attributes:
        id: its number, in the order of arrival.
        consumer: whose handling failed; a replay goes to this consumer only.
        message: raw body and headers, identical to what was delivered.
        error_type: the class of the last failure.
        error: the text of the last failure.
        replays: how often it has been replayed.
        dead_for: how long ago it failed last, by the database's clock when it was read.
    """

    id: int
    consumer: str
    hold_key: str
    message: Message
    state: DeadLetterState
    reason: str
    attempts: int
    error_type: str
    error: str
    history: tuple[FailedAttempt, ...]
    stack: str
    fingerprint: str
    first_failed_at: datetime
    last_failed_at: datetime
    replays: int
    dead_for: timedelta = field(default=timedelta(0), compare=False)
