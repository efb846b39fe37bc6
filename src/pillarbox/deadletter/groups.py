"""Groups of dead letters that have one cause, as an operator works through them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from pillarbox.deadletter.record import DeadLetterState
from pillarbox.transaction import Program

MAX_EXAMPLE_CHARS = 500


class GroupState(StrEnum):
    """What was decided about a cause: ``open → resolved → open`` when it comes back, or ``ignored``."""

    OPEN = "open"
    RESOLVED = "resolved"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterGroup:
    """The dead letters of one consumer that have one cause.

    Attributes:
        fingerprint: what they have in common; see ``fingerprint_of``.
        type: the type of their messages.
        example: the text of one of the failures.
        regressed: a letter has come after the group was resolved.
        note: what somebody wrote about it.
        arrivals: how many letters have ever come, replays that failed again included.
        dead: how many of them are dead now.
    """

    consumer: str
    fingerprint: str
    type: str
    error_type: str
    example: str
    state: GroupState
    regressed: bool
    note: str
    arrivals: int
    dead: int
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What a group was when letters came into it.

    Attributes:
        quiet_for: how long ago the letters before them came; ``None`` if they are the first.
        regressed: it had been resolved, and is open again.
    """

    quiet_for: timedelta | None = None
    regressed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFilter:
    """Which groups; what is left out is not asked for."""

    consumer: str | None = None
    fingerprint: str | None = None
    state: GroupState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterCount:
    """How many letters of one consumer, type, state and reason there are.

    Attributes:
        oldest_failed_at: the earliest first failure among them.
    """

    consumer: str
    type: str
    state: DeadLetterState
    reason: str
    count: int
    oldest_failed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AgedLetters:
    """The dead letters of one consumer that failed last long ago.

    Attributes:
        oldest_for: how long ago the one that has been dead for longest failed last.
    """

    consumer: str
    count: int
    oldest_for: timedelta


class DeadLetterReview(Protocol):
    """What is asked and decided about many letters at once.

    Every implementation must pass ``pillarbox.testing.contracts.DeadLetterReviewContract``.
    """

    @abstractmethod
    def stats(self) -> Program[Sequence[DeadLetterCount]]:
        """Count all letters, by consumer, type, state and reason; looks at each of them."""

    @abstractmethod
    def groups(self, where: GroupFilter, *, limit: int) -> Program[Sequence[DeadLetterGroup]]:
        """Return the groups seen last, latest first; costs the same however many letters they have."""

    @abstractmethod
    def judge(self, where: GroupFilter, *, state: GroupState | None, note: str | None) -> Program[int]:
        """Give groups a state, a note, or both; return how many. A new state takes the mark of a regression away."""

    @abstractmethod
    def aged(self, older_than: timedelta) -> Program[Sequence[AgedLetters]]:
        """Count the dead letters whose last failure is longer ago, by consumer; looks at none that is younger."""

    @abstractmethod
    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove up to ``limit`` resolved and discarded letters that failed longer ago; return how many.

        What is dead, or being replayed, is never removed.
        """
