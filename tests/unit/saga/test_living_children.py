"""A child past its parent's pivot that does not end in time: no other is started while it may be at work."""

from __future__ import annotations

from datetime import timedelta

from pillarbox.retry import Failure
from pillarbox.saga.definition import LASTING_RETRY, Kind
from pillarbox.saga.happening import Act, Cancelled, Failed, Refused, Retried, Sent, Succeeded
from pillarbox.saga.journal import ActState, Journal, SagaStatus
from tests.unit.saga.stage import DO, SECOND_US, UNDO, OneAct, OneStep, Stages

LATER, MUCH_LATER = 5 * SECOND_US, 50 * SECOND_US
CHARGED = Succeeded(step="charge", direction=DO, attempt=1)
STARTED = Sent(step="ship", direction=DO, attempt=1, token="o-1.ship")
COMPLETED = Succeeded(step="ship", direction=DO, attempt=1)
WAS_COMPENSATED = Refused(step="ship", direction=DO, attempt=1, error="the child was compensated")
AGAIN = Retried(reason="the carrier says that it is on its way")
SHAPE = Stages.of(
    OneStep("charge", OneAct(Kind.LOCAL), pivot=True),
    OneStep("ship", OneAct(Kind.CHILD, LASTING_RETRY, timedelta(seconds=1)), OneAct(Kind.CHILD)),
    OneStep("thank", OneAct(Kind.LOCAL)),
)


def overdue() -> Journal:
    """Return the journal of a saga whose child was awaited for too long."""
    journal = SHAPE.after(Journal(), CHARGED)
    return SHAPE.planned(SHAPE.after(journal, STARTED), at_us=LATER).journal


def test_a_child_that_does_not_end_in_time_needs_attention_and_no_other_is_started() -> None:
    journal = overdue()

    assert journal.status is SagaStatus.NEEDS_ATTENTION
    assert journal.do["ship"].state is ActState.UNKNOWN
    assert SHAPE.planned(journal, at_us=MUCH_LATER).acts == ()


def test_who_tries_again_waits_on_for_the_same_child() -> None:
    journal = SHAPE.observed(overdue(), AGAIN, at_us=LATER)

    waiting = SHAPE.planned(journal, at_us=LATER)

    assert waiting.acts == ()
    assert waiting.due_us == LATER + SECOND_US
    assert waiting.journal.do["ship"].state is ActState.SENT
    assert waiting.journal.do["ship"].token == "o-1.ship"
    assert SHAPE.planned(waiting.journal, at_us=MUCH_LATER).journal.status is SagaStatus.NEEDS_ATTENTION
    completed = SHAPE.observed(waiting.journal, COMPLETED, at_us=LATER)
    assert [act.step for act in SHAPE.planned(completed, at_us=LATER).acts] == ["thank"]


def test_a_child_that_completes_too_late_lets_the_saga_go_on() -> None:
    journal = SHAPE.observed(overdue(), COMPLETED, at_us=MUCH_LATER)

    assert [act.step for act in SHAPE.planned(journal, at_us=MUCH_LATER).acts] == ["thank"]


def test_when_the_child_was_compensated_after_all_another_may_be_started() -> None:
    refused_late = SHAPE.after(overdue(), WAS_COMPENSATED, at_us=MUCH_LATER)
    refused_at_once = SHAPE.observed(overdue(), AGAIN, at_us=LATER)
    refused_at_once = SHAPE.after(refused_at_once, WAS_COMPENSATED, at_us=LATER)

    for journal in (refused_late, refused_at_once):
        assert journal.status is SagaStatus.NEEDS_ATTENTION
        assert journal.do["ship"].state is ActState.FAILED
        again = SHAPE.planned(SHAPE.observed(journal, AGAIN, at_us=MUCH_LATER), at_us=MUCH_LATER)
        assert again.acts == (Act(step="ship", direction=DO, kind=Kind.CHILD, attempt=1, round=1),)


def test_who_compensates_undoes_the_child_that_may_be_at_work() -> None:
    by_force = Cancelled(reason="the customer is gone", forced=True)
    at_once = SHAPE.after(overdue(), by_force, at_us=LATER)
    tried_again = SHAPE.observed(overdue(), AGAIN, at_us=LATER)
    tried_again = SHAPE.planned(SHAPE.after(tried_again, by_force, at_us=LATER), at_us=MUCH_LATER).journal

    for journal in (at_once, tried_again):
        assert SHAPE.planned(journal, at_us=MUCH_LATER).acts == (
            Act(step="ship", direction=UNDO, kind=Kind.CHILD, attempt=1),
        )
        assert journal.do["ship"].token == "o-1.ship"


def test_a_child_that_could_not_be_started_is_tried_again() -> None:
    journal = SHAPE.after(Journal(), CHARGED)
    away = Failed(step="ship", direction=DO, attempt=1, error="away", failure=Failure(kind="transient"))
    journal = SHAPE.after(journal, away)

    assert journal.status is SagaStatus.RUNNING
    assert [act.attempt for act in SHAPE.planned(journal, at_us=MUCH_LATER).acts] == [2]
