"""Cancelling a saga whose pivot is under way: whichever comes first wins, and nobody has to be asked."""

from __future__ import annotations

from datetime import timedelta

from pillarbox.retry import Retry
from pillarbox.saga.definition import Kind
from pillarbox.saga.happening import Cancelled, Failed, Refused, Sent, Skipped, Succeeded
from pillarbox.saga.journal import Journal, SagaStatus
from pillarbox.saga.verbs import refusal_of
from tests.unit.saga.stage import DO, UNDO, OneAct, OneStep, Stages

SHAPE = Stages.of(
    OneStep("charge", OneAct(Kind.LOCAL), OneAct(Kind.LOCAL)),
    OneStep("ship", OneAct(Kind.REQUEST), pivot=True),
    OneStep("close", OneAct(Kind.LOCAL)),
)
SHIPPING = (
    Succeeded(step="charge", direction=DO, attempt=1),
    Sent(step="ship", direction=DO, attempt=1),
    Cancelled(reason="the customer changed their mind"),
)


def test_a_cancellation_waits_for_the_pivot_that_is_under_way() -> None:
    planned = SHAPE.planned(SHAPE.after(Journal(), *SHIPPING))

    assert planned.journal.status is SagaStatus.RUNNING
    assert planned.acts == ()


def test_a_cancellation_that_the_pivot_has_won_against_is_void_and_the_saga_goes_on() -> None:
    journal = SHAPE.after(Journal(), *SHIPPING, Succeeded(step="ship", direction=DO, attempt=1))

    assert [act.step for act in SHAPE.planned(journal).acts] == ["close"]
    assert "too late to cancel" in [entry.what for entry in journal.history]
    journal = SHAPE.observed(journal, Succeeded(step="close", direction=DO, attempt=1))
    assert SHAPE.planned(journal).journal.status is SagaStatus.COMPLETED


def test_a_cancellation_counts_when_the_pivot_is_refused() -> None:
    journal = SHAPE.after(
        Journal(), *SHIPPING, Refused(step="ship", direction=DO, attempt=1, error="no carrier goes there")
    )

    assert [(act.step, act.direction) for act in SHAPE.planned(journal).acts] == [("charge", UNDO)]


def test_an_operator_undoes_even_what_the_pivot_has_won() -> None:
    forced = Cancelled(reason="lost in the post", forced=True)

    journal = SHAPE.after(Journal(), *SHIPPING, Succeeded(step="ship", direction=DO, attempt=1), forced)

    assert [(act.step, act.direction) for act in SHAPE.planned(journal).acts] == [("charge", UNDO)]


def test_a_saga_whose_pivot_may_have_happened_is_past_it_when_it_stops() -> None:
    again = Retry(attempts=5, immediate=0, first=timedelta(minutes=1))
    shape = Stages.of(OneStep("ship", OneAct(Kind.OUTSIDE, again), pivot=True))
    lost = Failed(step="ship", direction=DO, attempt=1, error="no answer", maybe=True)
    journal = shape.observed(shape.planned(Journal()).journal, lost)
    cancelled = Cancelled(reason="the customer changed their mind")

    journal = shape.after(journal, cancelled)
    cancelled_again = shape.observed(journal, cancelled)

    assert (journal.status, journal.beyond) == (SagaStatus.NEEDS_ATTENTION, True)
    assert cancelled_again.status is SagaStatus.NEEDS_ATTENTION


def test_a_pivot_that_may_have_happened_is_skipped_though_it_was_cancelled_meanwhile() -> None:
    shape = Stages.of(OneStep("ship", OneAct(Kind.OUTSIDE), pivot=True))
    lost = Failed(step="ship", direction=DO, attempt=1, error="no answer", maybe=True)
    skipped = Skipped(step="ship", reason="the carrier has it")
    journal = shape.planned(Journal()).journal

    journal = shape.after(journal, Cancelled(reason="the customer changed their mind"), lost)

    assert journal.status is SagaStatus.NEEDS_ATTENTION
    assert refusal_of(journal, skipped) is None
    assert shape.after(journal, skipped).status is SagaStatus.COMPLETED
