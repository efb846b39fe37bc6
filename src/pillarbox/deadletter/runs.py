"""A replay of many letters: its terms, how far it has come, what is to be done next, and the port that keeps it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol, TypeAlias

from pillarbox.deadletter.store import DeadLetterFilter
from pillarbox.transaction import Program

ENOUGH_TO_JUDGE = 10
"""How many letters of a run without a canary must have come to an end before it can be stopped for their failures; and
how many of a run that can be stopped are under way at first."""

MAX_REPLAYS = 10
"""How often a letter is replayed before somebody must insist."""


class RunState(StrEnum):
    """Where a replay run stands: ``open → finished | stopped | cancelled``."""

    OPEN = "open"
    FINISHED = "finished"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


class ItemState(StrEnum):
    """Where a letter of a run stands: ``pending → enqueued → resolved | failed``, or ``pending → passed``.

    ``passed``: when its turn came it was not dead any more, or somebody else had replayed it since.
    """

    PENDING = "pending"
    ENQUEUED = "enqueued"
    RESOLVED = "resolved"
    FAILED = "failed"
    PASSED = "passed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayTerms:
    """How a run goes.

    Attributes:
        rate: letters a second; ``None`` for as fast as the database goes.
        canary: so many are replayed first, and the others only when these have come to a good end.
        stop_at: the share of failures, from 0 to 1, above which it stops; ``None`` stops for failures of canaries only.
        force: also letters that were replayed many times, or failed too long ago.
        within: letters whose last failure is longer ago are passed by: the inbox may have forgotten what they did.
    """

    rate: int | None = None
    canary: int = 0
    stop_at: float | None = None
    force: bool = False
    within: timedelta | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: a number is out of its range.
        """
        if self.rate is not None and self.rate < 1:
            raise ValueError(f"rate={self.rate} would replay nothing; give 1 or more letters a second, or None")
        if self.canary < 0:
            raise ValueError(f"canary={self.canary} is no number of letters; give 0 or more")
        if self.stop_at is not None and not 0 <= self.stop_at <= 1:
            raise ValueError(f"stop_at={self.stop_at} is no share of failures; give a number from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRun:
    """A run and how far it has come.

    Attributes:
        id: its name.
        wanted: what its letters were chosen by when it was made; letters that came later are not in it.
        by: who asked for it.
        created_at: ``None`` for one that was not made, after a dry run.
        ended_because: why it was stopped or cancelled; else empty.
        reached: the last letter that has had its turn; 0 before the first one.
        items: how many of its letters are in each state.
    """

    id: str
    state: RunState
    wanted: DeadLetterFilter
    terms: ReplayTerms
    by: str
    created_at: datetime | None
    ended_at: datetime | None
    ended_because: str
    reached: int
    items: Mapping[ItemState, int]

    @property
    def total(self) -> int:
        """How many letters it has."""
        return sum(self.items.values())

    def count(self, *states: ItemState) -> int:
        """Count the letters in any of ``states``."""
        return sum(self.items.get(state, 0) for state in states)


@dataclass(frozen=True, slots=True)
class EnqueueMore:
    """Make up to so many letters due."""

    at_most: int


@dataclass(frozen=True, slots=True)
class AwaitOutcomes:
    """Enqueue nothing before more of the letters have come to an end."""


@dataclass(frozen=True, slots=True)
class EndRun:
    """Close the run."""

    state: RunState
    because: str = ""


NextStep: TypeAlias = EnqueueMore | AwaitOutcomes | EndRun


def next_step(run: ReplayRun) -> NextStep:
    """Decide what comes next for a run: the canary first, the rule to stop, then the rest.

    Where the rule can stop it, no more letters are under way than have come to an end: else all would be, before the
    first of them has failed.
    """
    failed, settled = run.count(ItemState.FAILED), run.count(ItemState.FAILED, ItemState.RESOLVED)
    pending, waiting = run.count(ItemState.PENDING), run.count(ItemState.ENQUEUED)
    if pending == 0 and waiting == 0:
        return EndRun(RunState.FINISHED)
    canary = min(run.terms.canary, settled + waiting + pending)
    allowed = run.terms.stop_at if run.terms.stop_at is not None else 0.0 if canary else None
    judged = run.terms.stop_at is not None or settled <= canary
    is_enough = settled >= (canary or ENOUGH_TO_JUDGE)
    if pending and allowed is not None and judged and is_enough and failed > allowed * settled:
        return EndRun(RunState.STOPPED, f"{failed} of {settled} replays failed, at most {allowed:.0%} may")
    if settled + waiting < canary:
        return EnqueueMore(canary - settled - waiting)
    if settled < canary or pending == 0:
        return AwaitOutcomes()
    if run.terms.stop_at is None:
        return EnqueueMore(pending)
    room = max(ENOUGH_TO_JUDGE, settled) - waiting
    return EnqueueMore(min(pending, room)) if room > 0 else AwaitOutcomes()


class ReplayRunStore(Protocol):
    """Replay runs, each with the set of letters that was frozen when it was made.

    Every implementation must pass ``pillarbox.testing.contracts.ReplayRunStoreContract``.
    """

    @abstractmethod
    def create(self, run_id: str, wanted: DeadLetterFilter, terms: ReplayTerms, *, by: str) -> Program[int]:
        """Make a run of the dead letters that match now; return how many they are."""

    @abstractmethod
    def survey(self, wanted: DeadLetterFilter, terms: ReplayTerms) -> Program[Mapping[ItemState, int]]:
        """Count the dead letters that match now: ``pending`` what a run would replay, ``passed`` what it would not."""

    @abstractmethod
    def get(self, run_id: str) -> Program[ReplayRun | None]:
        """Return a run, with what has become of its letters up to now."""

    @abstractmethod
    def find(self, state: RunState | None, *, limit: int) -> Program[Sequence[str]]:
        """Return the ids of the runs made last, latest first."""

    @abstractmethod
    def end(self, run_id: str, *, state: RunState, because: str) -> Program[bool]:
        """Close an open run; return whether it was open."""
