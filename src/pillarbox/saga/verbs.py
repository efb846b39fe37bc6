"""What operators decide about a saga: why it cannot be, and what becomes of the journal. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from pillarbox.saga.happening import Cancelled, Happening, Moment, Retried, Skipped, noted
from pillarbox.saga.journal import ActState, Direction, Journal, Progress, SagaStatus


def refusal_of(journal: Journal, what: Happening) -> str | None:
    """Return why ``what`` cannot be; ``None`` if it can."""
    match what:
        case Retried():
            return _no_retry(journal)
        case Skipped():
            return _no_skip(journal, what.step)
        case Cancelled():
            return _no_end(journal, forced=what.forced)
        case _:
            return "no operator decides that"


def _no_retry(journal: Journal) -> str | None:
    if journal.status.is_ended:
        return f"it has ended, {journal.status}"
    waits = any(one.state is ActState.RETRY for one in (*journal.do.values(), *journal.undo.values()))
    if journal.status is not SagaStatus.NEEDS_ATTENTION and not waits:
        return f"it is {journal.status}, and nothing of it waits for another attempt"
    return None


def _no_skip(journal: Journal, step: str) -> str | None:
    if journal.status.is_ended:
        return f"it has ended, {journal.status}"
    undo, do = journal.undo.get(step), journal.do.get(step)
    if undo is not None and undo.state in (ActState.FAILED, ActState.RETRY, ActState.SENT):
        return None
    if do is None or do.state not in (ActState.FAILED, ActState.UNKNOWN, ActState.RETRY):
        return f"step {step!r} has not failed, and waits for no other attempt"
    stops = bool(journal.stopping) and journal.status is SagaStatus.RUNNING  # else the cancellation came too late
    if journal.undo or journal.forced or stops or journal.status is SagaStatus.COMPENSATING:
        return f"it is being undone, so step {step!r} cannot count as done; retry or skip the undoing that failed"
    return None


def _no_end(journal: Journal, *, forced: bool) -> str | None:
    status = journal.status
    if status in (SagaStatus.COMPENSATING, SagaStatus.COMPENSATED):
        return f"it is {status} already"
    if failed := [step for step, one in journal.undo.items() if one.state is ActState.FAILED]:
        return f"undoing {', '.join(map(repr, failed))} has failed; retry or skip that"
    is_to_end = status is SagaStatus.RUNNING and bool(journal.stopping)
    if is_to_end and (journal.forced or not (forced or journal.beyond)):
        return "it is to be undone already, once what is under way has come to its end"
    if forced:
        return None
    if journal.beyond:
        return "it is past its pivot, after which nothing is undone; compensate it, if that must be"
    if status is not SagaStatus.RUNNING:
        return f"it is {status}, and only a running saga is cancelled"
    return None


def cancelled(journal: Journal, what: Cancelled, moment: Moment) -> Journal:
    """Begin no further step, and undo what was done."""
    journal = noted(journal, moment, "compensation asked for" if what.forced else "cancelled", error=what.reason)
    if journal.status is SagaStatus.NEEDS_ATTENTION and journal.beyond and not what.forced:
        return noted(journal, moment, "too late to cancel")
    stopping = journal.stopping or what.reason
    journal = replace(journal, stopping=stopping, forced=journal.forced or what.forced)
    if journal.status is SagaStatus.NEEDS_ATTENTION or (what.forced and journal.status is SagaStatus.COMPLETED):
        return replace(journal, status=SagaStatus.COMPENSATING)
    return journal


def retried(journal: Journal, what: Retried, moment: Moment) -> Journal:
    """Try again what was given up, in the round that it has come to."""
    journal = noted(journal, moment, "retried", error=what.reason)
    if journal.status is not SagaStatus.NEEDS_ATTENTION:
        return replace(journal, do=_hastened(journal.do, moment), undo=_hastened(journal.undo, moment))
    if journal.undo or journal.forced:  # what is undone is not done again, and nothing goes on without it
        again = {step: one for step, one in journal.undo.items() if one.state is not ActState.FAILED}
        return replace(journal, undo=again, status=SagaStatus.COMPENSATING)
    waiting = {
        step: replace(one, state=ActState.RETRY, attempts=0, due_us=moment.now_us, maybe=one.state is ActState.UNKNOWN)
        if one.state in (ActState.FAILED, ActState.UNKNOWN)
        else one
        for step, one in journal.do.items()
    }
    return replace(journal, do=waiting, stopping="", status=SagaStatus.RUNNING)


def _hastened(acts: Mapping[str, Progress], moment: Moment) -> Mapping[str, Progress]:
    """Return ``acts`` with those due that wait for their next attempt."""
    return {
        step: replace(one, due_us=moment.now_us) if one.state is ActState.RETRY else one for step, one in acts.items()
    }


def skipped(journal: Journal, what: Skipped, moment: Moment) -> Journal:
    """Count a step, or its undoing, as done."""
    undo, do = journal.undo.get(what.step), journal.do.get(what.step)
    journal = noted(journal, moment, "skipped", what, what.reason)
    if undo is not None and undo.state in (ActState.FAILED, ActState.RETRY, ActState.SENT):
        passed = replace(undo, state=ActState.SKIPPED, due_us=None)
        journal = journal.with_progress(what.step, Direction.UNDO, passed)
        return replace(journal, status=SagaStatus.COMPENSATING)
    if do is not None and do.state in (ActState.FAILED, ActState.UNKNOWN, ActState.RETRY):
        passed = replace(do, state=ActState.SKIPPED, due_us=None, place=do.place or journal.places + 1)
        journal = journal.with_progress(what.step, Direction.DO, passed)
        return replace(journal, status=SagaStatus.RUNNING, stopping="")
    return journal
