"""A child past its parent's pivot that does not end in time: no other is started while it may be at work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pillarbox.retry import Failure, Retry
from pillarbox.saga.definition import LASTING_RETRY, ONCE, Kind
from pillarbox.saga.happening import Act, Cancelled, Failed, Happening, Moment, Plan, Refused, Retried, Sent, Succeeded
from pillarbox.saga.journal import ActState, Direction, Journal, SagaStatus
from pillarbox.saga.machine import observe, plan
from pillarbox.saga.shape import UNSHAPED

SECOND_US = 1_000_000
IN_TIME, LATER, MUCH_LATER = SECOND_US, 5 * SECOND_US, 50 * SECOND_US
DO, UNDO = Direction.DO, Direction.UNDO
STARTED = Sent(step="ship", direction=DO, attempt=1, token="o-1.ship")
COMPLETED = Succeeded(step="ship", direction=DO, attempt=1)
WAS_COMPENSATED = Refused(step="ship", direction=DO, attempt=1, error="the child was compensated")
AGAIN = Retried(reason="the carrier says that it is on its way")


@dataclass(frozen=True)
class OneAct:
    kind: Kind
    retry: Retry = ONCE
    timeout: timedelta | None = None


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
        (OneStep("charge", OneAct(Kind.LOCAL), pivot=True),),
        (OneStep("ship", OneAct(Kind.CHILD, LASTING_RETRY, timedelta(seconds=1)), OneAct(Kind.CHILD)),),
        (OneStep("thank", OneAct(Kind.LOCAL)),),
    )
)


def planned(journal: Journal, now_us: int) -> Plan:
    return plan(SHAPE, journal, Moment(now_us=now_us))


def after(journal: Journal, what: Happening, now_us: int) -> Journal:
    """Note ``what``, and what follows from it; operators know no shape."""
    shape = UNSHAPED if isinstance(what, Retried | Cancelled) else SHAPE
    return planned(observe(shape, journal, what, Moment(now_us=now_us)), now_us).journal


def overdue() -> Journal:
    """Return the journal of a saga whose child was awaited for too long."""
    journal = after(Journal(), Succeeded(step="charge", direction=DO, attempt=1), IN_TIME)
    return planned(after(journal, STARTED, IN_TIME), LATER).journal


def test_a_child_that_does_not_end_in_time_needs_attention_and_no_other_is_started() -> None:
    journal = overdue()

    assert journal.status is SagaStatus.NEEDS_ATTENTION
    assert journal.do["ship"].state is ActState.UNKNOWN
    assert planned(journal, MUCH_LATER).acts == ()


def test_who_tries_again_waits_on_for_the_same_child() -> None:
    journal = observe(UNSHAPED, overdue(), AGAIN, Moment(now_us=LATER))

    waiting = planned(journal, LATER)

    assert waiting.acts == ()
    assert waiting.due_us == LATER + SECOND_US
    assert waiting.journal.do["ship"].state is ActState.SENT
    assert waiting.journal.do["ship"].token == "o-1.ship"
    assert planned(waiting.journal, MUCH_LATER).journal.status is SagaStatus.NEEDS_ATTENTION
    assert [act.step for act in planned(observe(SHAPE, waiting.journal, COMPLETED, Moment(now_us=LATER)), LATER).acts]


def test_a_child_that_completes_too_late_lets_the_saga_go_on() -> None:
    journal = observe(SHAPE, overdue(), COMPLETED, Moment(now_us=MUCH_LATER))

    assert [act.step for act in planned(journal, MUCH_LATER).acts] == ["thank"]


def test_when_the_child_was_compensated_after_all_another_may_be_started() -> None:
    refused_late = after(overdue(), WAS_COMPENSATED, MUCH_LATER)
    refused_at_once = observe(UNSHAPED, overdue(), AGAIN, Moment(now_us=LATER))
    refused_at_once = after(refused_at_once, WAS_COMPENSATED, LATER)

    for journal in (refused_late, refused_at_once):
        assert journal.status is SagaStatus.NEEDS_ATTENTION
        assert journal.do["ship"].state is ActState.FAILED
        again = planned(observe(UNSHAPED, journal, AGAIN, Moment(now_us=MUCH_LATER)), MUCH_LATER)
        assert again.acts == (Act(step="ship", direction=DO, kind=Kind.CHILD, attempt=1),)


def test_who_compensates_undoes_the_child_that_may_be_at_work() -> None:
    by_force = Cancelled(reason="the customer is gone", forced=True)
    at_once = after(overdue(), by_force, LATER)
    tried_again = observe(UNSHAPED, overdue(), AGAIN, Moment(now_us=LATER))
    tried_again = planned(after(tried_again, by_force, LATER), MUCH_LATER).journal

    for journal in (at_once, tried_again):
        assert planned(journal, MUCH_LATER).acts == (Act(step="ship", direction=UNDO, kind=Kind.CHILD, attempt=1),)
        assert journal.do["ship"].token == "o-1.ship"


def test_a_child_that_could_not_be_started_is_tried_again() -> None:
    journal = after(Journal(), Succeeded(step="charge", direction=DO, attempt=1), IN_TIME)
    away = Failed(step="ship", direction=DO, attempt=1, error="away", failure=Failure(kind="transient"))
    journal = after(journal, away, IN_TIME)

    assert journal.status is SagaStatus.RUNNING
    assert [act.attempt for act in planned(journal, MUCH_LATER).acts] == [2]
