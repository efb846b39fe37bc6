"""What can happen to a saga, what is to be done about it, and when that is decided. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeAlias

import msgspec

from pillarbox.retry import Failure
from pillarbox.saga.definition import Kind
from pillarbox.saga.journal import MAX_ERROR_CHARS, Direction, Entry, Journal

UNKNOWN_FAILURE = Failure(kind="unknown")
FINAL = Failure(kind="permanent")
"""Of what has happened, and whose end is not known."""
MICROSECOND = timedelta(microseconds=1)
LATEST_US = 253_370_764_800 * 1_000_000
"""The first second of the year 9999: what is due much later could be neither kept nor shown."""


class Act(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An act to be carried out now, and what may become of it."""

    step: str
    direction: Direction
    kind: Kind
    attempt: int
    round: int = 0

    def sent(self, token: str = "", *, changed: tuple[str, ...] = ()) -> Sent:
        """Its command is on its way, or its child ``token`` was started; making it changed these fields."""
        return Sent(step=self.step, direction=self.direction, attempt=self.attempt, token=token, changed=changed)

    def succeeded(self, changed: tuple[str, ...] = ()) -> Succeeded:
        """It is done, and has changed these fields of the state."""
        return Succeeded(
            step=self.step, direction=self.direction, attempt=self.attempt, round=self.round, changed=changed
        )

    def refused(self, error: str) -> Refused:
        """It did not happen."""
        return Refused(step=self.step, direction=self.direction, attempt=self.attempt, round=self.round, error=error)

    def failed(self, error: str, failure: Failure, *, maybe: bool) -> Failed:
        """It has failed, and ``maybe`` it happened nevertheless."""
        return Failed(
            step=self.step,
            direction=self.direction,
            attempt=self.attempt,
            round=self.round,
            error=error,
            failure=failure,
            maybe=maybe,
        )


class Succeeded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An act is done.

    Attributes:
        attempt: which attempt it was, where that can be asked.
        round: of which round.
        changed: the fields of the state that it changed, of a parallel step.
    """

    step: str
    direction: Direction
    attempt: int = 0
    round: int = 0
    changed: tuple[str, ...] = ()


class Sent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A command is on its way, or a child was started, whose id is ``token``.

    Attributes:
        changed: the fields of the state that making it changed, of a parallel step.
    """

    step: str
    direction: Direction
    attempt: int
    token: str = ""
    changed: tuple[str, ...] = ()


class Refused(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An act was refused: ``StepFailed``. It did not happen, and trying again cannot help."""

    step: str
    direction: Direction
    error: str
    attempt: int = 0
    round: int = 0


class Failed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An attempt failed.

    Attributes:
        failure: what kind of failure it was.
        maybe: it may have happened nevertheless.
    """

    step: str
    direction: Direction
    attempt: int
    error: str
    round: int = 0
    failure: Failure = UNKNOWN_FAILURE
    maybe: bool = False


class Cancelled(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Somebody wants no further step, and what was done undone; ``forced`` even past the pivot."""

    reason: str
    forced: bool = False


class Retried(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An operator wants what was given up tried again."""

    reason: str


class Skipped(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An operator has seen to a step in another way."""

    step: str
    reason: str


Happening: TypeAlias = Succeeded | Sent | Refused | Failed | Cancelled | Retried | Skipped


class Moment(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """When something is decided: by the database's clock, with dice, in whose name."""

    now_us: int
    dice: float = 0.5
    token: str = ""


def later(moment: Moment, wait: timedelta) -> int:
    """Return the instant ``wait`` after ``moment``; no later than there are dates."""
    return min(moment.now_us + wait // MICROSECOND, LATEST_US)


def noted(journal: Journal, moment: Moment, what: str, of: object = None, error: str = "") -> Journal:
    """Return ``journal`` with one more line of history, about the act ``of`` which something is told."""
    return journal.noting(
        Entry(
            at_us=moment.now_us,
            what=what,
            step=getattr(of, "step", ""),
            direction=getattr(of, "direction", Direction.DO),
            attempt=getattr(of, "attempt", 0),
            error=error[:MAX_ERROR_CHARS],
        )
    )


class Plan(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is to be done now.

    Attributes:
        journal: with what must be durable before that.
        acts: what to carry out: local acts, commands and children in this transaction, calls after it.
        due_us: when to look again if nothing happens; ``None`` if never.
    """

    journal: Journal
    acts: tuple[Act, ...]
    due_us: int | None
