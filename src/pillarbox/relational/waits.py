"""Waiting for causes in SQL: a row for each message and each cause that it waits for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from sqlalchemy import BigInteger, String, and_, bindparam, delete, func, literal, or_, select, update

from pillarbox.deadletter import DeadLetterState
from pillarbox.holding import HoldState, Waiting, WaitsState, WaitStore
from pillarbox.ordering.causes import Place
from pillarbox.relational.expressions import among, any_of, insert_into, now_us, texts
from pillarbox.relational.tables import dead_letters, held, holds, waits
from pillarbox.transaction import Execute, Program

BY = bindparam("by", type_=String)
IDS = texts("ids")

WAIT = (
    insert_into(waits)
    .values(
        consumer=BY,
        message_id=bindparam("waiting_id", type_=String),
        cause_id=bindparam("waited_for", type_=String),
        hold_key=bindparam("in_hold", type_=String),
        since=now_us(),
    )
    .on_conflict_do_nothing(index_elements=["consumer", "message_id", "cause_id"])
)
AGES = (  # primary key prefix
    select(waits.c.message_id, now_us() - func.min(waits.c.since))
    .where(waits.c.consumer == BY, any_of(waits.c.message_id, IDS))
    .group_by(waits.c.message_id)
)
_before = held.alias("before")
_waiting_before = (
    select(waits.c.consumer, waits.c.hold_key, waits.c.cause_id, _before.c.rank, _before.c.position)
    .join(_before, and_(_before.c.consumer == waits.c.consumer, _before.c.message_id == waits.c.message_id))
    .subquery("waiting_before")
)
HELD = (  # index on (consumer, message_id), then that of the waits on (consumer, hold_key)
    select(held.c.message_id, held.c.hold_key, held.c.rank, held.c.position, _waiting_before.c.cause_id)
    .outerjoin(
        _waiting_before,
        and_(
            _waiting_before.c.consumer == held.c.consumer,
            _waiting_before.c.hold_key == held.c.hold_key,
            or_(
                _waiting_before.c.rank < held.c.rank,
                and_(_waiting_before.c.rank == held.c.rank, _waiting_before.c.position <= held.c.position),
            ),
        ),
    )
    .where(held.c.consumer == BY, any_of(held.c.message_id, IDS))
)
DEAD = select(dead_letters.c.message_id).where(  # index on (consumer, message_id)
    dead_letters.c.consumer == BY,
    any_of(dead_letters.c.message_id, IDS),
    dead_letters.c.state.in_([DeadLetterState.DEAD.value, DeadLetterState.DISCARDED.value]),
)
WAITED_FOR = (  # index on (consumer, cause_id)
    select(waits.c.hold_key).distinct().where(waits.c.consumer == BY, any_of(waits.c.cause_id, IDS))
)
_waiting = select(waits.c.message_id).where(waits.c.consumer == BY, any_of(waits.c.hold_key, texts("in_holds")))
DUE_MESSAGES = (
    update(held)
    .where(
        held.c.consumer == BY,
        any_of(held.c.hold_key, texts("hold_keys")),
        among(held.c.message_id, _waiting.scalar_subquery()),
    )
    .values(due_at=now_us())
)
DUE_HOLDS = (  # primary key
    update(holds)
    .where(holds.c.consumer == BY, any_of(holds.c.hold_key, texts("hold_keys")), holds.c.state == HoldState.WAITING)
    .values(due_at=now_us())
)
FORGET = delete(waits).where(waits.c.consumer == BY, any_of(waits.c.message_id, IDS))
_each = (
    select(func.min(waits.c.since).label("since"))
    .where(or_(bindparam("everyone", type_=BigInteger) == literal(1), waits.c.consumer == BY))
    .group_by(waits.c.consumer, waits.c.message_id)
    .subquery("each_message")
)
STATE = select(func.count(), now_us() - func.min(_each.c.since)).select_from(_each)


class RelationalWaitStore(WaitStore):
    """What waits, as rows beside the holds; the drainer finds it when its hold is due."""

    def wait(self, consumer: str, waiting: Sequence[Waiting]) -> Program[Mapping[str, timedelta]]:
        """Insert what is new, then read since when each waits."""
        rows = [
            {"by": consumer, "waiting_id": one.message_id, "waited_for": cause, "in_hold": one.hold_key}
            for one in sorted(waiting, key=lambda one: one.message_id)
            for cause in sorted(one.causes)
        ]
        if not rows:
            return {}
        yield Execute(WAIT, rows)
        found = yield Execute(AGES, {"by": consumer, "ids": sorted({one.message_id for one in waiting})})
        return {message_id: timedelta(microseconds=max(int(age), 0)) for message_id, age in found}

    def places(self, consumer: str, message_ids: Collection[str]) -> Program[Mapping[str, Place]]:
        """Join what is held with what waits before it in the same hold; then look among the dead."""
        asked = {"by": consumer, "ids": sorted(message_ids)}
        found: dict[str, tuple[str, tuple[int, int]]] = {}
        needs: dict[str, set[str]] = defaultdict(set)
        for message_id, hold_key, rank, position, cause_id in (yield Execute(HELD, asked)):
            found[message_id] = (hold_key, (rank, position))
            if cause_id is not None:
                needs[message_id].add(cause_id)
        dead = {row[0] for row in (yield Execute(DEAD, asked))}
        places = {
            message_id: Place(hold_key=hold_key, at=at, is_dead=message_id in dead, needs=frozenset(needs[message_id]))
            for message_id, (hold_key, at) in found.items()
        }
        return places | dict.fromkeys(dead - places.keys(), Place(is_dead=True))

    def waited_for(self, consumer: str, causes: Collection[str]) -> Program[Collection[str]]:
        """Select by cause."""
        rows = yield Execute(WAITED_FOR, {"by": consumer, "ids": sorted(causes)})
        return frozenset(row[0] for row in rows)

    def look_again(self, consumer: str, hold_keys: Collection[str]) -> Program[None]:
        """Write a new due time on both, in sorted order."""
        keys = sorted(hold_keys)
        yield Execute(DUE_MESSAGES, {"by": consumer, "hold_keys": keys, "in_holds": keys})
        yield Execute(DUE_HOLDS, {"by": consumer, "hold_keys": keys})

    def forget(self, consumer: str, message_ids: Collection[str]) -> Program[None]:
        """Delete the rows."""
        yield Execute(FORGET, {"by": consumer, "ids": sorted(message_ids)})

    def state(self, consumer: str | None = None) -> Program[WaitsState]:
        """Count messages, not rows."""
        whose = {"by": consumer or "", "everyone": int(consumer is None)}
        messages, oldest_us = (yield Execute(STATE, whose))[0]
        oldest = None if oldest_us is None else timedelta(microseconds=max(int(oldest_us), 0))
        return WaitsState(messages=messages, oldest_for=oldest)
