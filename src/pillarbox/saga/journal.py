"""What is known of one saga: which acts were begun, and how each of them ended.

Thousands of these live at once, and none can be part of a cycle, so the garbage collector does not look at them:
``gc=False``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from pillarbox.errors import DecodeError

MAX_HISTORY = 500
"""So many entries are kept; of a saga that was tried more often than that, the first ones are left out."""
MAX_ERROR_CHARS = 500


class SagaStatus(StrEnum):
    """Where a saga stands.

    ::

        running ──▶ completed
           │  └───▶ needs_attention ──▶ (retry, skip) running
           ▼                │
        compensating ◀──────┘ (retry, skip, compensate)
           │  └───▶ needs_attention
           ▼
        compensated ──▶ compensating, when a refused step turns out to have been done

    Two ends, and one stop that an operator's verb leads out of, or word that what was given up has been done after all.
    """

    RUNNING = "running"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    NEEDS_ATTENTION = "needs_attention"

    @property
    def is_ended(self) -> bool:
        """Whether nothing more happens by itself or by a verb."""
        return self in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED)


class Direction(StrEnum):
    """What a step does, or what undoes it."""

    DO = "do"
    UNDO = "undo"


class ActState(StrEnum):
    """Where an act stands, which is a step in one direction.

    ::

        intent ──▶ done | failed | unknown | retry        (a call: the intent is durable before it is made)
        sent   ──▶ done | failed | unknown | retry        (a command or a child: something comes back)
        retry  ──▶ intent | sent | done | failed | unknown
        failed | unknown | retry ──▶ skipped              (by an operator)

    ``unknown`` may or may not have happened. A local act is written down with its end only.
    """

    INTENT = "intent"
    SENT = "sent"
    RETRY = "retry"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"

    @property
    def is_open(self) -> bool:
        """Whether something is still to come of it."""
        return self in OPEN


OPEN = frozenset({ActState.INTENT, ActState.SENT, ActState.RETRY})
THROUGH = frozenset({ActState.DONE, ActState.SKIPPED})
GIVEN_UP = frozenset({ActState.FAILED, ActState.UNKNOWN})


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How far one act has come.

    Attributes:
        state: where it stands.
        attempts: how many attempts have begun.
        round: how many rounds of attempts are over, each by a refusal; an operator's retry begins the next one.
        maybe: an earlier attempt may have happened.
        place: when it came to its end, counted over the saga: undoing goes backwards.
        due_us: when something is to be done about it: an attempt, or giving it up.
        token: who is making the call; of a child, its id.
        error: its last failure.
        changed: the fields of the state that it changed, of a parallel step.
    """

    state: ActState
    attempts: int = 0
    round: int = 0
    maybe: bool = False
    place: int = 0
    due_us: int | None = None
    token: str = ""
    error: str = ""
    changed: tuple[str, ...] = ()


class Arrived(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A reply that has come and was not looked at yet.

    Attributes:
        attempt: which attempt it answers.
        round: of which round.
        type: its logical name.
        version: of its schema.
        body: its payload, as text where it is text, else in base64.
        failures: how often the reaction to it has failed.
        due_us: when it is to be looked at again after that.
    """

    step: str
    direction: Direction
    attempt: int
    round: int = 0
    type: str
    version: int
    content_type: str
    body: str
    failures: int = 0
    due_us: int | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One line of a saga's history."""

    at_us: int
    what: str
    step: str = ""
    direction: Direction = Direction.DO
    attempt: int = 0
    error: str = ""


class Parent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who waits for the end of a saga: where its answer goes, under which key and token."""

    to: str
    key: str
    token: str


class Journal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """All that is known of one saga beside its state.

    Attributes:
        status: where it stands.
        do: by step, what it does.
        undo: by step, what undoes it.
        places: how many acts have come to an end.
        stopping: why no further step is begun; empty while it goes on.
        forced: an operator wants it undone, even past the pivot.
        beyond: the pivot is behind it.
        arrived: replies that wait to be looked at, or to be looked at again.
        history: what happened, in order.
        secret: what tokens are signed with; known to nobody else.
        parent: the saga that waits for this one.
        locked: it has taken semantic locks, to be let go when it ends.
        digest: of the steps it goes through; empty until it is first driven.
    """

    status: SagaStatus = SagaStatus.RUNNING
    do: Mapping[str, Progress] = msgspec.field(default_factory=dict[str, Progress])
    undo: Mapping[str, Progress] = msgspec.field(default_factory=dict[str, Progress])
    places: int = 0
    stopping: str = ""
    forced: bool = False
    beyond: bool = False
    arrived: tuple[Arrived, ...] = ()
    history: tuple[Entry, ...] = ()
    secret: str = ""
    parent: Parent | None = None
    locked: bool = False
    digest: str = ""

    @property
    def awaits_call(self) -> bool:
        """Whether a call to the outside is under way."""
        return any(one.state is ActState.INTENT for acts in (self.do, self.undo) for one in acts.values())

    @property
    def error(self) -> str:
        """Why something was given up, an undoing before all; empty where nothing was."""
        given_up = (one.error for one in (*self.undo.values(), *self.do.values()) if one.state in GIVEN_UP)
        return next((error for error in given_up if error), "")

    def of(self, step: str, direction: Direction) -> Progress | None:
        """Return how far an act has come; ``None`` before its first attempt."""
        return (self.do if direction is Direction.DO else self.undo).get(step)

    def with_progress(self, step: str, direction: Direction, progress: Progress) -> Journal:
        """Return the same journal with the act of ``step`` so far, at its end if it has a place."""
        places = max(self.places, progress.place)
        if direction is Direction.DO:
            return msgspec.structs.replace(self, do={**self.do, step: progress}, places=places)
        return msgspec.structs.replace(self, undo={**self.undo, step: progress}, places=places)

    def noting(self, entry: Entry) -> Journal:
        """Return the same journal with one more line of history."""
        return msgspec.structs.replace(self, history=(*self.history[-MAX_HISTORY + 1 :], entry))


def steps_under_way(journal: Journal) -> str:
    """Return the steps that are under way, those that are being undone with ``undo:`` before them."""
    doing = [step for step, progress in journal.do.items() if progress.state.is_open]
    undoing = [f"undo:{step}" for step, progress in journal.undo.items() if progress.state.is_open]
    return " ".join([*doing, *undoing])


encode_journal = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Journal).decode


def decode_journal(text: str | bytes) -> Journal:
    """Return the journal that ``text`` holds.

    Raises:
        DecodeError: it is none, or one of a release that knows more states.
    """
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(message_type="journal of the saga", reason=str(error), is_of_saga=True) from error
