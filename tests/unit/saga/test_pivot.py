"""Cancelling a saga whose pivot is under way: whichever comes first wins, and nobody has to be asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pillarbox.retry import Retry
from pillarbox.saga.definition import ONCE, Kind
from pillarbox.saga.happening import Cancelled, Failed, Happening, Moment, Refused, Sent, Succeeded
from pillarbox.saga.journal import Direction, Journal, SagaStatus
from pillarbox.saga.machine import observe, plan

NOW = Moment(now_us=1_000_000)
DO = Direction.DO


@dataclass(frozen=True)
class OneAct:
    kind: Kind
    retry: Retry = ONCE
    timeout: None = None


@dataclass(frozen=True)
class OneStep:
    name: str
    do: OneAct
    undo: OneAct | None = None
    pivot: bool = False


@dataclass(frozen=True)
class Stages:
    stages: tuple[tuple[OneStep, ...], ...]


SHAPE = Stages(
    (
        (OneStep("charge", OneAct(Kind.LOCAL), OneAct(Kind.LOCAL)),),
        (OneStep("ship", OneAct(Kind.REQUEST), pivot=True),),
        (OneStep("close", OneAct(Kind.LOCAL)),),
    )
)
SHIPPING = (
    Succeeded(step="charge", direction=DO, attempt=1),
    Sent(step="ship", direction=DO, attempt=1),
    Cancelled(reason="the customer changed their mind"),
)


def after(*happenings: Happening) -> Journal:
    journal = Journal(secret="s")
    for happening in happenings:
        journal = plan(SHAPE, observe(SHAPE, journal, happening, NOW), NOW).journal
    return journal


def test_a_cancellation_waits_for_the_pivot_that_is_under_way() -> None:
    planned = plan(SHAPE, after(*SHIPPING), NOW)

    assert planned.journal.status is SagaStatus.RUNNING
    assert planned.acts == ()


def test_a_cancellation_that_the_pivot_has_won_against_is_void_and_the_saga_goes_on() -> None:
    journal = after(*SHIPPING, Succeeded(step="ship", direction=DO, attempt=1))

    assert [act.step for act in plan(SHAPE, journal, NOW).acts] == ["close"]
    assert "too late to cancel" in [entry.what for entry in journal.history]
    journal = observe(SHAPE, journal, Succeeded(step="close", direction=DO, attempt=1), NOW)
    assert plan(SHAPE, journal, NOW).journal.status is SagaStatus.COMPLETED


def test_a_cancellation_counts_when_the_pivot_is_refused() -> None:
    journal = after(*SHIPPING, Refused(step="ship", direction=DO, attempt=1, error="no carrier goes there"))

    assert [(act.step, act.direction) for act in plan(SHAPE, journal, NOW).acts] == [("charge", Direction.UNDO)]


def test_an_operator_undoes_even_what_the_pivot_has_won() -> None:
    forced = Cancelled(reason="lost in the post", forced=True)

    journal = after(*SHIPPING, Succeeded(step="ship", direction=DO, attempt=1), forced)

    assert [(act.step, act.direction) for act in plan(SHAPE, journal, NOW).acts] == [("charge", Direction.UNDO)]


def test_a_saga_whose_pivot_may_have_happened_is_past_it_when_it_stops() -> None:
    again = Retry(attempts=5, immediate=0, first=timedelta(minutes=1))
    shape = Stages(((OneStep("ship", OneAct(Kind.OUTSIDE, again), pivot=True),),))
    lost = Failed(step="ship", direction=DO, attempt=1, error="no answer", maybe=True)
    journal = observe(shape, plan(shape, Journal(), NOW).journal, lost, NOW)
    cancelled = Cancelled(reason="the customer changed their mind")

    journal = plan(shape, observe(shape, journal, cancelled, NOW), NOW).journal
    cancelled_again = observe(shape, journal, cancelled, NOW)

    assert (journal.status, journal.beyond) == (SagaStatus.NEEDS_ATTENTION, True)
    assert cancelled_again.status is SagaStatus.NEEDS_ATTENTION
