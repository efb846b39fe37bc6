"""An undo that waits behind another one does not have its saga looked at all the time."""

from __future__ import annotations

from datetime import timedelta

from pillarbox.saga.definition import STEP_RETRY, Kind
from pillarbox.saga.journal import ActState, Journal, Progress, SagaStatus
from tests.unit.saga.stage import OneAct, OneStep, Stages

NOW_US = 1_000_000
CALL = OneAct(Kind.OUTSIDE, STEP_RETRY, timedelta(seconds=30))


def test_what_waits_behind_another_undo_is_looked_at_when_that_one_is() -> None:
    early, late = OneStep("early", CALL, CALL), OneStep("late", CALL, CALL)
    behind = Progress(state=ActState.RETRY, attempts=1, due_us=NOW_US - 1)  # begun before "late" was done after all
    before = Progress(state=ActState.INTENT, attempts=1, due_us=NOW_US + 500, token="t")
    done = Progress(state=ActState.DONE, attempts=1, place=1)
    journal = Journal(
        status=SagaStatus.COMPENSATING,
        do={"early": done, "late": Progress(state=ActState.UNKNOWN, attempts=1, place=2)},
        undo={"early": behind, "late": before},
    )

    planned = Stages(((early, late),)).planned(journal, at_us=NOW_US)

    assert (planned.acts, planned.due_us) == ((), NOW_US + 500)
