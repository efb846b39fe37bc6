"""An undo that was given up and turns out to have been done: the saga goes on backwards, whatever an operator says."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pillarbox.saga.definition import Kind
from pillarbox.saga.happening import Refused, Retried, Sent, Succeeded
from pillarbox.saga.journal import ActState, Journal, Progress, SagaStatus
from tests.unit.saga.stage import DO, SECOND_US, UNDO, OneAct, OneStep, Stages

NOW_US = 9 * SECOND_US
DONE_LATE = Succeeded(step="reserve", direction=UNDO, attempt=1)
ASKED_FOR = OneAct(Kind.REQUEST, timeout=timedelta(seconds=1))
SHAPE = Stages.of(
    OneStep("charge", OneAct(Kind.LOCAL), ASKED_FOR),
    OneStep("reserve", OneAct(Kind.LOCAL), ASKED_FOR),
    OneStep("ship", OneAct(Kind.LOCAL)),
)


def given_up(*steps: str) -> Journal:
    """Return the journal of a saga that was to be undone, of which the undoing of ``steps`` was never answered."""
    done = [Succeeded(step=step, direction=DO, attempt=1) for step in ("charge", "reserve")]
    refused = Refused(step="ship", direction=DO, attempt=1, error="no carrier goes there")
    journal, now_us = SHAPE.after(Journal(), *done, refused), SECOND_US
    for step in ("reserve", "charge"):
        journal = SHAPE.after(journal, Sent(step=step, direction=UNDO, attempt=1), at_us=now_us)
        if step in steps:
            now_us += 2 * SECOND_US
            journal = SHAPE.planned(journal, at_us=now_us).journal
        else:
            journal = SHAPE.after(journal, Succeeded(step=step, direction=UNDO, attempt=1), at_us=now_us)
    assert journal.status is SagaStatus.NEEDS_ATTENTION
    return journal


def test_a_saga_whose_last_undo_is_answered_late_is_undone() -> None:
    journal = SHAPE.observed(given_up("reserve"), DONE_LATE)

    assert SHAPE.planned(journal, at_us=NOW_US).journal.status is SagaStatus.COMPENSATED


def test_a_saga_of_which_another_undo_has_failed_still_needs_attention() -> None:
    journal = SHAPE.observed(given_up("reserve", "charge"), DONE_LATE)
    journal = SHAPE.planned(journal, at_us=NOW_US).journal

    assert journal.status is SagaStatus.NEEDS_ATTENTION
    assert journal.undo["reserve"].state is ActState.DONE
    assert journal.undo["charge"].state is ActState.FAILED


@pytest.mark.parametrize("by_release", ["this", "an older one"])
def test_what_is_tried_again_after_an_undo_goes_on_backwards(by_release: str) -> None:
    journal = given_up("reserve")
    if by_release == "this":
        journal = SHAPE.observed(journal, DONE_LATE)
    else:  # whose late answers did not turn a saga
        journal = journal.with_progress("reserve", UNDO, Progress(state=ActState.DONE, attempts=1, place=9))

    journal = SHAPE.observed(journal, Retried(reason="the carrier has mended it"))
    planned = SHAPE.planned(journal, at_us=NOW_US)

    assert planned.acts == (), "a step was begun although others are undone"
    assert planned.journal.status is SagaStatus.COMPENSATED
