"""What a box has still to do, and what it has published: read from its tables by the harness."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import exists, func, or_, select, text

from pillarbox.channel import is_queue
from pillarbox.deadletter import DeadLetterState, RunState
from pillarbox.deadletter.runs import ItemState
from pillarbox.flow.policy import FlowState
from pillarbox.holding import HoldState
from pillarbox.message import Message
from pillarbox.relational.breakers import RelationalCircuitStore
from pillarbox.relational.expressions import micros, now_us
from pillarbox.relational.flow_tables import flow_instances
from pillarbox.relational.operator_tables import replay_items, replay_runs
from pillarbox.relational.rows import message_of
from pillarbox.relational.saga_tables import saga_instances
from pillarbox.relational.tables import dead_letters, holds, outbox, outbox_scheduled, queue, subscriptions
from pillarbox.transaction import Execute, Program

COPY = "pillarbox_testing_published"
_copied = "id, event_type, destination, message_key, content_type, headers, payload"
KEEP_A_COPY = (
    text(f"CREATE TABLE IF NOT EXISTS {COPY} (position INTEGER PRIMARY KEY, {_copied})"),
    text(
        f"CREATE TRIGGER IF NOT EXISTS {COPY}_copy AFTER INSERT ON {outbox.name} BEGIN "
        f"INSERT INTO {COPY} ({_copied}) SELECT {_copied} FROM {outbox.name} WHERE position = NEW.position; END"
    ),
)
COPIES = text(f"SELECT position, {_copied} FROM {COPY} WHERE position > :after ORDER BY position")

IN_OUTBOX = select(outbox.c.destination, func.count()).group_by(outbox.c.destination)
LISTENED_TO = select(subscriptions.c.channel).distinct()
IN_QUEUES = select(queue.c.consumer, queue.c.channel, func.count()).group_by(queue.c.consumer, queue.c.channel)
SCHEDULED = select(func.count(), func.min(outbox_scheduled.c.due_at) - now_us()).select_from(outbox_scheduled)
HOLDS = (
    select(holds.c.consumer, func.count(), func.min(holds.c.due_at) - now_us())
    .where(holds.c.state == HoldState.WAITING)
    .group_by(holds.c.consumer, or_(holds.c.due_at <= now_us(), holds.c.lease_token.is_not(None)))
    .add_columns(or_(holds.c.due_at <= now_us(), holds.c.lease_token.is_not(None)))
)

_pending = exists().where(
    replay_items.c.run == replay_runs.c.run, replay_items.c.letter > replay_runs.c.reached, replay_runs.c.canary == 0
)
_under_way = exists().where(
    replay_items.c.run == replay_runs.c.run,
    replay_items.c.letter <= replay_runs.c.reached,
    replay_items.c.state == ItemState.PENDING.value,
    dead_letters.c.position == replay_items.c.letter,
    dead_letters.c.state == DeadLetterState.REPLAYING.value,
)
REPLAY_RUNS = (  # those that can be taken a step further: the others wait for letters under way, which are held
    select(func.count())
    .select_from(replay_runs)
    .where(replay_runs.c.state == RunState.OPEN.value, or_(_pending, ~_under_way))
)
DUE_FLOWS = (
    select(func.count())
    .select_from(flow_instances)
    .where(flow_instances.c.state.in_([FlowState.RUNNING, FlowState.STUCK]), flow_instances.c.due_at <= now_us())
)
COUNTED = (
    (REPLAY_RUNS, "replay runs that can go on"),
    (DUE_FLOWS, "processes of flows that are to be looked at"),
)

_saga_is_due = saga_instances.c.due_at <= now_us()
SAGAS = (
    select(func.count(), func.min(saga_instances.c.due_at) - now_us())
    .where(saga_instances.c.due_at.is_not(None))
    .group_by(_saga_is_due)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Work of one box that is not done.

    Attributes:
        now: what can be done now, in words; empty when there is nothing.
        later: what waits for its time, in words.
        next_in: how long until the first of it is due.
    """

    now: tuple[str, ...]
    later: tuple[str, ...]
    next_in: timedelta | None

    def __str__(self) -> str:
        """Say it in one line."""
        return "; ".join([*self.now, *self.later]) or "nothing"


def keep_a_copy() -> Program[None]:
    """Let the database copy whatever enters the outbox, in the same transaction."""
    for statement in KEEP_A_COPY:
        yield Execute(statement)


def published_after(position: int) -> Program[Sequence[tuple[int, Message]]]:
    """Return what has entered the outbox since, with its positions, in order."""
    rows = yield Execute(COPIES, {"after": position})
    return [(row[0], message_of(row[1:])) for row in rows]


def _paused() -> Program[Mapping[str, int]]:
    """Return for how many microseconds a consumer's dependency is not even probed."""
    known = yield from RelationalCircuitStore().known()
    return {consumer: micros(one.circuit.wait) for one in known for consumer in one.needed_by}


def _counted() -> Program[list[str]]:
    """Return what can be done now and is only counted, in words."""
    words: list[str] = []
    for statement, what in COUNTED:
        if number := (yield Execute(statement))[0][0]:
            words.append(f"{number} {what}")
    return words


def _sagas() -> Program[Sequence[tuple[int, str]]]:
    """Return how many sagas are to be looked at again, and in how many microseconds."""
    counts = yield Execute(SAGAS)
    return [(wait_us, f"{number} sagas{' that are due' * (wait_us <= 0)}") for number, wait_us in counts]


def look_for_pending(consumers: Collection[str], channels: Collection[str]) -> Program[Pending]:
    """Return what ``consumers``, who listen to ``channels``, and the relay have to do.

    An event nobody listens to and a command of another service are not theirs.
    """
    now: list[str] = []
    later: list[tuple[int, str]] = []
    heard = {row[0] for row in (yield Execute(LISTENED_TO))}
    for destination, number in (yield Execute(IN_OUTBOX)):
        if is_queue(destination) or destination in heard:
            now.append(f"{number} in the outbox for {destination}")
    paused = yield from _paused()
    for mailbox, channel, number in (yield Execute(IN_QUEUES)):
        if paused.get(mailbox):
            later.append((paused[mailbox], f"{number} of {channel}, whose consumer's dependency is down"))
        elif mailbox in consumers or mailbox in channels:
            now.append(f"{number} of {channel} waiting for their consumer")
    now += yield from _counted()
    number, due_in_us = (yield Execute(SCHEDULED))[0]
    if number:
        later.append((due_in_us, f"{number} delayed messages"))
    for consumer, number, due_in_us, is_due in (yield Execute(HOLDS)):
        if consumer in consumers:
            wait_us = paused.get(consumer, 0) if is_due else due_in_us
            later.append((wait_us, f"{number} held keys of {consumer}{' that are due' * (not wait_us)}"))
    later += yield from _sagas()
    due = [what for micros, what in later if micros <= 0]
    waiting = [
        (micros, f"{what}, the first in {timedelta(microseconds=micros)}") for micros, what in later if micros > 0
    ]
    return Pending(
        now=(*now, *due),
        later=tuple(what for _, what in waiting),
        next_in=timedelta(microseconds=min(micros for micros, _ in waiting)) if waiting else None,
    )
