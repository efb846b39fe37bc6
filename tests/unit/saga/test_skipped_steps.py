"""A step that an operator has skipped counts as done: it is undone with the others if it comes to that."""

from __future__ import annotations

from datetime import timedelta

from pillarbox.retry import Failure
from pillarbox.saga.definition import STEP_RETRY, Kind
from pillarbox.saga.happening import Cancelled, Failed, Refused, Sent, Skipped, Succeeded
from pillarbox.saga.journal import Journal, SagaStatus
from tests.unit.saga.stage import DO, UNDO, OneAct, OneStep, Stages

CALL = OneAct(Kind.OUTSIDE, STEP_RETRY, timedelta(seconds=30))
LOCAL = OneAct(Kind.LOCAL)
CHILD = OneAct(Kind.CHILD, STEP_RETRY)
SHAPE = Stages.of(OneStep("order", LOCAL, LOCAL), OneStep("charge", CALL, CALL), OneStep("ship", LOCAL))
ORDERED = Succeeded(step="order", direction=DO, attempt=1)
PASSING = Failure(kind="transient")
CUT_OFF = Failed(step="charge", direction=DO, attempt=3, error="no answer", failure=PASSING, maybe=True)
SKIPPED = Skipped(step="charge", reason="the bank says that it is paid")
NO_SHIP = Refused(step="ship", direction=DO, attempt=1, error="no carrier")


def test_what_was_skipped_and_may_have_happened_is_undone_first_as_it_was_done_last() -> None:
    journal = SHAPE.after(Journal(), ORDERED, CUT_OFF, SKIPPED, NO_SHIP)

    assert journal.status is SagaStatus.COMPENSATING
    assert list(journal.undo) == ["charge"]
    journal = SHAPE.observed(journal, Succeeded(step="charge", direction=UNDO, attempt=1))
    assert [(act.step, act.direction) for act in SHAPE.planned(journal).acts] == [("order", UNDO)]


def test_what_was_skipped_past_the_pivot_is_undone_when_an_operator_wants_all_undone() -> None:
    shape = Stages.of(OneStep("order", LOCAL, pivot=True), OneStep("charge", CALL, CALL))
    completed = shape.after(Journal(), ORDERED, CUT_OFF, SKIPPED)
    assert completed.status is SagaStatus.COMPLETED

    journal = shape.after(completed, Cancelled(reason="it came back", forced=True))

    assert journal.status is SagaStatus.COMPENSATING
    assert list(journal.undo) == ["charge"]


def test_of_a_skipped_child_that_was_never_started_nothing_is_undone() -> None:
    shape = Stages.of(OneStep("order", LOCAL, LOCAL), OneStep("charge", CHILD, CHILD), OneStep("ship", LOCAL))
    not_started = Failed(step="charge", direction=DO, attempt=3, error="no state", failure=PASSING)

    journal = shape.observed(shape.after(Journal(), ORDERED, not_started, SKIPPED), NO_SHIP)

    assert [(act.step, act.direction) for act in shape.planned(journal).acts] == [("order", UNDO)]


def test_a_skipped_child_that_may_be_at_work_is_undone() -> None:
    once = OneAct(Kind.CHILD, timeout=timedelta(seconds=1))
    shape = Stages.of(OneStep("order", LOCAL, LOCAL, pivot=True), OneStep("charge", once, CHILD))
    started = Sent(step="charge", direction=DO, attempt=1, token="o-1.fulfil.charge")
    stopped = shape.planned(shape.after(Journal(), ORDERED, started), at_us=2**60).journal
    assert stopped.status is SagaStatus.NEEDS_ATTENTION

    journal = shape.observed(shape.after(stopped, SKIPPED), Cancelled(reason="it came back", forced=True))

    assert [(act.step, act.direction) for act in shape.planned(journal).acts] == [("charge", UNDO)]
