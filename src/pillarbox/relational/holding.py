"""Holding in SQL: a row for each held key, and the messages behind it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    SmallInteger,
    String,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)

from pillarbox.errors import LeaseLostError
from pillarbox.holding import (
    OWN,
    STOP,
    FailedAttempt,
    HeldMessage,
    HeldQueue,
    HeldState,
    Hold,
    HoldingState,
    HoldingStore,
    HoldState,
)
from pillarbox.relational.expressions import any_of, insert_into, micros, now_us, texts
from pillarbox.relational.rows import MESSAGE_COLUMNS, message_columns, message_of, message_values
from pillarbox.relational.tables import held, holds
from pillarbox.transaction import Execute, Program

RANKS = {HeldState.REPLAYING: 0, HeldState.RETRYING: 1, HeldState.HELD: 2}
"""A key's messages run in the order of rank and position: what is replayed was before what is retried now."""

BY = bindparam("by", type_=String)
KEYS = texts("hold_keys")
TOKEN = bindparam("by_token", type_=String)
_due_at = now_us() + bindparam("due_in_us", type_=BigInteger)
_decode_history = msgspec.json.Decoder(tuple[FailedAttempt, ...]).decode

HELD_AMONG = (  # primary key; locked against deletion only: its lease may be renewed meanwhile
    select(holds.c.hold_key)
    .where(holds.c.consumer == BY, any_of(holds.c.hold_key, KEYS))
    .order_by(holds.c.hold_key)
    .with_for_update(read=True, key_share=True)
)
_at_the_limit = (
    select(held.c.position)
    .where(held.c.consumer == holds.c.consumer, held.c.hold_key == holds.c.hold_key)
    .order_by(held.c.rank, held.c.position)
    .limit(1)
    .offset(bindparam("but_one", type_=BigInteger))
    .scalar_subquery()
)
FULL_AMONG = (  # index on (consumer, hold_key, rank, position), of each key no further than the limit
    select(holds.c.hold_key).where(holds.c.consumer == BY, any_of(holds.c.hold_key, KEYS), _at_the_limit.is_not(None))
)
_hold = insert_into(holds).values(
    consumer=BY,
    hold_key=bindparam("held_key", type_=String),
    state=bindparam("new_state", type_=String),
    due_at=_due_at,
    lease_until=0,
    since=now_us(),
)
HOLD = _hold.on_conflict_do_update(
    index_elements=["consumer", "hold_key"],
    set_={"state": _hold.excluded.state, "due_at": _hold.excluded.due_at},
)
JOIN = _hold.on_conflict_do_update(  # what is there stays as it is, and does not end before the transaction does
    index_elements=["consumer", "hold_key"], set_={"due_at": holds.c.due_at}
)
APPEND = (
    insert_into(held)
    .values(
        consumer=BY,
        **{name: bindparam(name, type_=held.c[name].type) for name in ("hold_key", *MESSAGE_COLUMNS)},
        state=bindparam("new_state", type_=String),
        rank=bindparam("new_rank", type_=SmallInteger),
        attempts=bindparam("tried", type_=Integer),
        due_at=_due_at,
        history=bindparam("failures", type_=Text),
    )
    .on_conflict_do_nothing(index_elements=["consumer", "message_id"])
)
MAKE_WAY = delete(held).where(
    held.c.consumer == BY, any_of(held.c.message_id, texts("ids")), held.c.state == HeldState.HELD
)

_everyone = or_(bindparam("everyone", type_=SmallInteger) == literal(1), holds.c.consumer == BY)
_other = holds.alias("other")


def _stops(hold_key: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that a hold stops its consumer; a range of the primary key."""
    return and_(hold_key >= STOP, hold_key < STOP[:-1] + chr(ord(STOP[-1]) + 1))


STOPPED = select(holds.c.consumer).distinct().where(_everyone, _stops(holds.c.hold_key))
FREE = (  # index on (consumer, state, due_at); locked so that two processes do not lease the same hold
    select(holds.c.hold_key)
    .where(
        holds.c.consumer == BY,
        holds.c.state == HoldState.WAITING,
        holds.c.due_at <= now_us(),
        or_(holds.c.lease_token.is_(None), holds.c.lease_until <= now_us()),
        or_(_stops(holds.c.hold_key), ~exists().where(_other.c.consumer == BY, _stops(_other.c.hold_key))),
    )
    .order_by(holds.c.due_at)
    .limit(bindparam("up_to", type_=BigInteger))
    .with_for_update(skip_locked=True)
)
LEASE = (
    update(holds)
    .where(holds.c.consumer == BY, any_of(holds.c.hold_key, KEYS))
    .values(lease_token=TOKEN, lease_until=now_us() + bindparam("ttl_us", type_=BigInteger))
)
RENEW = (
    update(holds)
    .where(holds.c.consumer == BY, holds.c.lease_token == TOKEN)
    .values(lease_until=now_us() + bindparam("ttl_us", type_=BigInteger))
)
_ranked = (
    select(
        held.c.hold_key,
        held.c.state,
        held.c.attempts,
        held.c.history,
        *message_columns(held),
        held.c.rank,
        held.c.position,
        (held.c.due_at <= now_us()).label("is_due"),
        func.row_number().over(partition_by=held.c.hold_key, order_by=(held.c.rank, held.c.position)).label("place"),
    )
    .join(holds, and_(holds.c.consumer == held.c.consumer, holds.c.hold_key == held.c.hold_key))
    .where(holds.c.consumer == BY, holds.c.lease_token == TOKEN)
    .subquery("ranked")
)
HEADS = (  # index on (consumer, hold_key, rank, position)
    select(_ranked)
    .where(_ranked.c.place <= bindparam("per_key", type_=BigInteger))
    .order_by(_ranked.c.hold_key, _ranked.c.rank, _ranked.c.position)
)
FENCE = (
    select(holds.c.hold_key)
    .where(holds.c.consumer == BY, any_of(holds.c.hold_key, KEYS), holds.c.lease_token == TOKEN)
    .order_by(holds.c.hold_key)
    .with_for_update(read=True)
)
REMOVE = delete(held).where(held.c.consumer == BY, any_of(held.c.message_id, texts("ids")))
RESCHEDULE = (
    update(held)
    .where(held.c.consumer == BY, held.c.message_id == bindparam("of_message", type_=String))
    .values(attempts=bindparam("tried", type_=Integer), history=bindparam("failures", type_=Text), due_at=_due_at)
)
LOCK_MINE = (  # appenders that saw the hold commit first; those that come later wait and find what is left
    select(holds.c.hold_key)
    .where(holds.c.consumer == BY, holds.c.lease_token == TOKEN)
    .order_by(holds.c.hold_key)
    .with_for_update()
)
_has_messages = exists().where(held.c.consumer == holds.c.consumer, held.c.hold_key == holds.c.hold_key)
END = (
    delete(holds)
    .where(holds.c.consumer == BY, holds.c.lease_token == TOKEN, holds.c.state == HoldState.WAITING, ~_has_messages)
    .returning(holds.c.hold_key)
)
_head_due_at = (
    select(held.c.due_at)
    .where(held.c.consumer == holds.c.consumer, held.c.hold_key == holds.c.hold_key)
    .order_by(held.c.rank, held.c.position)
    .limit(1)
    .scalar_subquery()
)
GIVE_BACK = (
    update(holds)
    .where(holds.c.consumer == BY, holds.c.lease_token == TOKEN)
    .values(lease_token=None, lease_until=0, due_at=func.coalesce(_head_due_at, holds.c.due_at))
)
_is_own = func.substr(holds.c.hold_key, 1, len(OWN)) == OWN  # of a message that is held alone: nothing is behind it
STATE = select(
    func.count(),
    func.count(case((and_(holds.c.state == HoldState.BLOCKED, not_(_is_own)), 1))),
    now_us() - func.min(case((or_(holds.c.state != HoldState.BLOCKED, not_(_is_own)), holds.c.since))),
).where(_everyone)
_by_key = (
    select(func.count().label("messages"))
    .select_from(held)
    .where(or_(bindparam("everyone", type_=SmallInteger) == literal(1), held.c.consumer == BY))
    .group_by(held.c.consumer, held.c.hold_key)
    .subquery("by_key")
)
COUNT_MESSAGES = select(func.coalesce(func.sum(_by_key.c.messages), 0), func.coalesce(func.max(_by_key.c.messages), 0))


def history_json(history: Sequence[FailedAttempt]) -> str:
    """Return failed attempts as JSON text."""
    return msgspec.json.encode(history).decode()


def history_of(text: str) -> tuple[FailedAttempt, ...]:
    """Read failed attempts from JSON text."""
    return _decode_history(text)


class RelationalHoldingStore(HoldingStore, HeldQueue):
    """Holds and held messages as rows."""

    def held_among(self, consumer: str, hold_keys: Sequence[str]) -> Program[Collection[str]]:
        """Select the holds, share-locked in sorted order."""
        rows = yield Execute(HELD_AMONG, {"by": consumer, "hold_keys": list(hold_keys)})
        return frozenset(row[0] for row in rows)

    def full_among(self, consumer: str, hold_keys: Sequence[str], *, limit: int) -> Program[Collection[str]]:
        """Look for the message at the limit of each."""
        rows = yield Execute(FULL_AMONG, {"by": consumer, "hold_keys": list(hold_keys), "but_one": limit - 1})
        return frozenset(row[0] for row in rows)

    def hold(self, consumer: str, holds: Sequence[Hold]) -> Program[None]:
        """Insert or update in sorted order."""
        yield Execute(HOLD, _hold_rows(consumer, holds))

    def join(self, consumer: str, holds: Sequence[Hold]) -> Program[None]:
        """Insert in sorted order; an update that changes nothing locks what is there."""
        yield Execute(JOIN, _hold_rows(consumer, holds))

    def append(self, consumer: str, messages: Sequence[HeldMessage]) -> Program[None]:
        """Insert behind what is there, by rank; a late duplicate that is held makes way for the replay of it."""
        replays = [one.message.id for one in messages if one.state is HeldState.REPLAYING]
        if replays:
            yield Execute(MAKE_WAY, {"by": consumer, "ids": replays})
        rows = [
            {
                **message_values(one.message),
                "by": consumer,
                "hold_key": one.hold_key,
                "new_state": one.state.value,
                "new_rank": RANKS[one.state],
                "tried": one.attempts,
                "due_in_us": micros(one.due_in),
                "failures": history_json(one.history),
            }
            for one in messages
        ]
        yield Execute(APPEND, rows)

    def stopped(self, consumer: str | None = None) -> Program[Collection[str]]:
        """Look for holds whose key says that they stop their consumer."""
        rows = yield Execute(STOPPED, {"by": consumer or "", "everyone": int(consumer is None)})
        return frozenset(row[0] for row in rows)

    def state(self, consumer: str | None = None) -> Program[HoldingState]:
        """Count holds and messages."""
        whose = {"by": consumer or "", "everyone": int(consumer is None)}
        keys, blocked, oldest_us = (yield Execute(STATE, whose))[0]
        messages, fullest = (yield Execute(COUNT_MESSAGES, whose))[0]
        oldest = None if oldest_us is None else timedelta(microseconds=max(int(oldest_us), 0))
        return HoldingState(keys=keys, blocked=blocked, messages=int(messages), oldest_for=oldest, fullest=int(fullest))

    def lease_due(self, consumer: str, *, token: str, limit: int, ttl: timedelta) -> Program[int]:
        """Lock what is free, then write the token."""
        free = yield Execute(FREE, {"by": consumer, "up_to": limit})
        if free:
            mine = {"by": consumer, "hold_keys": [row[0] for row in free], "by_token": token, "ttl_us": micros(ttl)}
            yield Execute(LEASE, mine)
        return len(free)

    def renew(self, consumer: str, *, token: str, ttl: timedelta) -> Program[None]:
        """Write a later end."""
        yield Execute(RENEW, {"by": consumer, "by_token": token, "ttl_us": micros(ttl)})

    def heads(self, consumer: str, *, token: str, per_key: int) -> Program[Sequence[HeldMessage]]:
        """Read the first messages of each leased hold; a message that is not due ends its key's list."""
        rows = yield Execute(HEADS, {"by": consumer, "by_token": token, "per_key": per_key})
        waiting = set[str]()
        heads: list[HeldMessage] = []
        for hold_key, state, attempts, history, *rest in rows:
            *message, _rank, _position, is_due, _place = rest
            if not is_due:
                waiting.add(hold_key)
            if hold_key not in waiting:
                heads.append(
                    HeldMessage(
                        hold_key=hold_key,
                        message=message_of(message),
                        state=HeldState(state),
                        attempts=attempts,
                        history=history_of(history),
                    )
                )
        return heads

    def fence(self, consumer: str, hold_keys: Collection[str], *, token: str) -> Program[None]:
        """Lock the holds and compare their token."""
        mine = yield Execute(FENCE, {"by": consumer, "hold_keys": sorted(hold_keys), "by_token": token})
        if len(mine) < len(set(hold_keys)):
            raise LeaseLostError(lease=f"holds of {consumer}", token=token)

    def remove(self, consumer: str, message_ids: Sequence[str]) -> Program[None]:
        """Delete the rows."""
        yield Execute(REMOVE, {"by": consumer, "ids": list(message_ids)})

    def reschedule(self, consumer: str, messages: Sequence[HeldMessage]) -> Program[None]:
        """Update the rows in place."""
        rows = [
            {
                "by": consumer,
                "of_message": one.message.id,
                "tried": one.attempts,
                "failures": history_json(one.history),
                "due_in_us": micros(one.due_in),
            }
            for one in messages
        ]
        yield Execute(RESCHEDULE, rows)

    def finish(self, consumer: str, *, token: str) -> Program[int]:
        """Lock our holds, then look again: only what is empty under the lock ends."""
        mine = {"by": consumer, "by_token": token}
        yield Execute(LOCK_MINE, mine)
        ended = yield Execute(END, mine)
        yield Execute(GIVE_BACK, mine)
        return len(ended)


def _hold_rows(consumer: str, holds: Sequence[Hold]) -> list[dict[str, object]]:
    return [
        {"by": consumer, "held_key": one.hold_key, "new_state": one.state.value, "due_in_us": micros(one.due_in)}
        for one in sorted(holds, key=lambda hold: hold.hold_key)
    ]
