"""An undo that was given up and turns out to have been done: the saga goes on backwards, whatever an operator says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest

from pillarbox.retry import Retry
from pillarbox.saga.definition import ONCE, Kind
from pillarbox.saga.happening import Happening, Moment, Refused, Retried, Sent, Succeeded
from pillarbox.saga.journal import ActState, Direction, Journal, Progress, SagaStatus
from pillarbox.saga.machine import observe, plan
from pillarbox.saga.shape import UNSHAPED

SECOND_US = 1_000_000
DO, UNDO = Direction.DO, Direction.UNDO
DONE_LATE = Succeeded(step="reserve", direction=UNDO, attempt=1)


@dataclass(frozen=True)
class OneAct:
    kind: Kind
    retry: Retry = ONCE
    timeout: timedelta | None = timedelta(seconds=1)


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
        (OneStep("charge", OneAct(Kind.LOCAL), OneAct(Kind.REQUEST)),),
        (OneStep("reserve", OneAct(Kind.LOCAL), OneAct(Kind.REQUEST)),),
        (OneStep("ship", OneAct(Kind.LOCAL)),),
    )
)


def moment(now_us: int) -> Moment:
    return Moment(now_us=now_us, token="t")


def given_up(*steps: str) -> Journal:
    """Return the journal of a saga that was to be undone, of which the undoing of ``steps`` was never answered."""
    journal, now_us = Journal(), SECOND_US

    def note(what: Happening) -> Journal:
        return plan(SHAPE, observe(SHAPE, journal, what, moment(now_us)), moment(now_us)).journal

    for step in ("charge", "reserve"):
        journal = note(Succeeded(step=step, direction=DO, attempt=1))
    journal = note(Refused(step="ship", direction=DO, attempt=1, error="no carrier goes there"))
    for step in ("reserve", "charge"):
        journal = note(Sent(step=step, direction=UNDO, attempt=1))
        if step in steps:
            now_us += 2 * SECOND_US
            journal = plan(SHAPE, journal, moment(now_us)).journal
        else:
            journal = note(Succeeded(step=step, direction=UNDO, attempt=1))
    assert journal.status is SagaStatus.NEEDS_ATTENTION
    return journal


def test_a_saga_whose_last_undo_is_answered_late_is_undone() -> None:
    journal = observe(SHAPE, given_up("reserve"), DONE_LATE, moment(9 * SECOND_US))

    assert plan(SHAPE, journal, moment(9 * SECOND_US)).journal.status is SagaStatus.COMPENSATED


def test_a_saga_of_which_another_undo_has_failed_still_needs_attention() -> None:
    journal = observe(SHAPE, given_up("reserve", "charge"), DONE_LATE, moment(9 * SECOND_US))
    journal = plan(SHAPE, journal, moment(9 * SECOND_US)).journal

    assert journal.status is SagaStatus.NEEDS_ATTENTION
    assert journal.undo["reserve"].state is ActState.DONE
    assert journal.undo["charge"].state is ActState.FAILED


@pytest.mark.parametrize("by_release", ["this", "an older one"])
def test_what_is_tried_again_after_an_undo_goes_on_backwards(by_release: str) -> None:
    journal = given_up("reserve")
    if by_release == "this":
        journal = observe(SHAPE, journal, DONE_LATE, moment(9 * SECOND_US))
    else:  # whose late answers did not turn a saga
        journal = journal.with_progress("reserve", UNDO, Progress(state=ActState.DONE, attempts=1, place=9))

    journal = observe(UNSHAPED, journal, Retried(reason="the carrier has mended it"), moment(9 * SECOND_US))
    planned = plan(SHAPE, journal, moment(9 * SECOND_US))

    assert planned.acts == (), "a step was begun although others are undone"
    assert planned.journal.status is SagaStatus.COMPENSATED
