"""Replies that have come: which are looked at now, and which later, since the reaction to them failed. Pure."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from pillarbox.retry import Failure, GiveUp, Retry, RetryLater, decide
from pillarbox.saga.happening import Moment, later, noted
from pillarbox.saga.journal import Arrived, Journal

REACTION_RETRY = Retry(attempts=8)
"""How often a reaction is called when what it needs is away: what the reply is about has happened."""
LOOK_AGAIN = timedelta(seconds=1)
"""When a reply is looked at again whose type is not known here."""
UNKNOWN = "is no reply that the step awaits"
PASSING = frozenset({"transient", "throttled", "conflict"})


def taken(journal: Journal, moment: Moment) -> tuple[tuple[Arrived, ...], Journal]:
    """Return the replies that are to be looked at now, and ``journal`` without them."""
    now = tuple(reply for reply in journal.arrived if (reply.due_us or 0) <= moment.now_us)
    others = tuple(reply for reply in journal.arrived if (reply.due_us or 0) > moment.now_us)
    return now, replace(journal, arrived=others)


def put_off(journal: Journal, reply: Arrived, failure: Failure, moment: Moment, *, error: str) -> Journal | None:
    """Return ``journal`` with a reply to be looked at again; ``None`` if the failure of its reaction is final.

    What it answers is not given up before that, nor tried again.
    """
    verdict = decide(REACTION_RETRY, failure, attempt=reply.failures + 1, dice=moment.dice)
    if failure.kind not in PASSING or isinstance(verdict, GiveUp):
        return None
    due_us = later(moment, verdict.after) if isinstance(verdict, RetryLater) else moment.now_us
    kept = replace(reply, failures=reply.failures + 1, due_us=due_us)
    journal = replace(journal, arrived=(*journal.arrived, kept))
    progress = journal.of(reply.step, reply.direction)
    if progress is not None and progress.state.is_open and progress.due_us is not None:
        waiting = replace(progress, due_us=max(progress.due_us, due_us))
        journal = journal.with_progress(reply.step, reply.direction, waiting)
    return noted(journal, moment, "failed", reply, error)


def kept_for_others(journal: Journal, reply: Arrived, moment: Moment, *, error: str) -> Journal | None:
    """Return ``journal`` with a reply of a type that is not known here, until what it answers is given up anyway.

    A process of another release may know it, and looks at the saga as well. ``None`` if there is no more time.
    """
    progress = journal.of(reply.step, reply.direction)
    if progress is None or not progress.state.is_open or progress.due_us is None or progress.due_us <= moment.now_us:
        return None
    kept = replace(reply, due_us=min(later(moment, LOOK_AGAIN), progress.due_us))
    journal = replace(journal, arrived=(*journal.arrived, kept))
    return noted(journal, moment, "not known here", reply, error) if reply.due_us is None else journal


def next_look(journal: Journal, due_us: int | None) -> int | None:
    """Return when to look at a saga again that is else looked at at ``due_us``."""
    dues = [reply.due_us for reply in journal.arrived if reply.due_us is not None]
    return min((*dues, *(() if due_us is None else (due_us,))), default=None)
