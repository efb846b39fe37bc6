"""An undo that waits behind another one does not have its saga looked at all the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pillarbox import Retry
from pillarbox.saga.definition import Kind
from pillarbox.saga.happening import Moment
from pillarbox.saga.journal import ActState, Journal, Progress, SagaStatus
from pillarbox.saga.machine import plan

NOW_US = 1_000_000
RETRY = Retry()


@dataclass(frozen=True)
class Act:
    kind: Kind = Kind.OUTSIDE
    retry: Retry = RETRY
    timeout: timedelta | None = timedelta(seconds=30)


@dataclass(frozen=True)
class Step:
    name: str
    do: Act = Act()
    undo: Act | None = Act()
    pivot: bool = False


@dataclass(frozen=True)
class Shape:
    stages: tuple[tuple[Step, ...], ...]


def test_what_waits_behind_another_undo_is_looked_at_when_that_one_is() -> None:
    early, late = Step("early"), Step("late")
    behind = Progress(state=ActState.RETRY, attempts=1, due_us=NOW_US - 1)  # begun before "late" was done after all
    before = Progress(state=ActState.INTENT, attempts=1, due_us=NOW_US + 500, token="t")
    done = Progress(state=ActState.DONE, attempts=1, place=1)
    journal = Journal(
        status=SagaStatus.COMPENSATING,
        do={"early": done, "late": Progress(state=ActState.UNKNOWN, attempts=1, place=2)},
        undo={"early": behind, "late": before},
    )

    planned = plan(Shape(stages=((early, late),)), journal, Moment(now_us=NOW_US))

    assert (planned.acts, planned.due_us) == ((), NOW_US + 500)
