"""Parked records in SQL: looked at, put back into the outbox, or given up by an operator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    String,
    Text,
    bindparam,
    delete,
    exists,
    func,
    select,
    update,
)

from pillarbox.outbox import ParkedRecord, ParkedRecords
from pillarbox.relational.expressions import insert_into, now_us
from pillarbox.relational.outbox import LOCK_HOLD
from pillarbox.relational.rows import RECORD_COLUMNS, columns, message_of, record_message_columns
from pillarbox.relational.tables import outbox, outbox_held, outbox_holds
from pillarbox.transaction import Execute, Program, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PARKED, HELD, SKIPPED = "parked", "held", "skipped"
_COPIED = ("position", *RECORD_COLUMNS)

_behind = outbox_held.alias("behind")
_count_behind = (  # index on (destination, message_key, position); none where the key is NULL
    select(func.count())
    .where(
        _behind.c.destination == outbox_held.c.destination,
        _behind.c.message_key == outbox_held.c.message_key,
        _behind.c.position > outbox_held.c.position,
        _behind.c.state.in_([PARKED, HELD]),
    )
    .scalar_subquery()
)
FIND = (  # index on (state, position)
    select(
        outbox_held.c.position,
        outbox_held.c.reason,
        outbox_held.c.parked_at,
        _count_behind,
        *record_message_columns(outbox_held),
    )
    .where(outbox_held.c.state == PARKED, outbox_held.c.position > bindparam("after", type_=BigInteger))
    .order_by(outbox_held.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)
WHERE_PARKED = (  # index on (state, position)
    select(outbox_held.c.position, outbox_held.c.destination, outbox_held.c.message_key)
    .where(outbox_held.c.state == PARKED, outbox_held.c.id == bindparam("message_id", type_=String))
    .order_by(outbox_held.c.position)
    .limit(1)
)
LOCK_PARKED = WHERE_PARKED.with_for_update()


def _put_back(chosen: ColumnElement[bool]) -> tuple[Executable, Executable]:
    """Return the statements that copy the chosen rows into the outbox, positions and all, and remove them here."""
    waiting = outbox_held.c.state.in_([PARKED, HELD])
    copy = insert_into(outbox).from_select(_COPIED, select(*columns(outbox_held, _COPIED)).where(chosen, waiting))
    return copy, delete(outbox_held).where(chosen, waiting)


_of_key = (outbox_held.c.destination == bindparam("destination", type_=String)) & (
    outbox_held.c.message_key == bindparam("key", type_=String)
)
_at_position = outbox_held.c.position == bindparam("at", type_=BigInteger)
PUT_KEY_BACK = _put_back(_of_key)  # index on (destination, message_key, position)
PUT_ONE_BACK = _put_back(_at_position)  # primary key
COUNT_KEY = select(func.count()).select_from(outbox_held).where(_of_key, outbox_held.c.state.in_([PARKED, HELD]))
HAS_PARKED = select(exists().where(_of_key, outbox_held.c.state == PARKED))
END_HOLD = delete(outbox_holds).where(
    outbox_holds.c.destination == bindparam("destination", type_=String),
    outbox_holds.c.message_key == bindparam("key", type_=String),
)
SKIP = (
    update(outbox_held)
    .where(_at_position)
    .values(
        state=SKIPPED,
        skipped_at=now_us(),
        skipped_by=bindparam("decided_by", type_=String),
        skipped_because=bindparam("because", type_=Text),
    )
)


class RelationalParkedRecords(ParkedRecords):
    """Parked records as rows; a key's hold is locked before its rows are moved."""

    def find(self, *, after: int, limit: int) -> Program[Sequence[ParkedRecord]]:
        """Page through the parked rows."""
        return [_record(row) for row in (yield Execute(FIND, {"after": after, "up_to": limit}))]

    def release(self, message_id: str) -> Program[int | None]:
        """Lock, then move the rows of the key; a record without one goes alone."""
        parked = yield from _lock(message_id)
        if parked is None:
            return None
        position, destination, key = parked
        if key is not None:
            return (yield from _release_key(destination, key))
        for statement in PUT_ONE_BACK:
            yield Execute(statement, {"at": position})
        return 1

    def skip(self, message_id: str, *, by: str, because: str) -> Program[int | None]:
        """Lock, note the decision in the row, then release the key if nothing of it is parked any more."""
        parked = yield from _lock(message_id)
        if parked is None:
            return None
        position, destination, key = parked
        yield Execute(SKIP, {"at": position, "decided_by": by, "because": because})
        if key is None or (yield Execute(HAS_PARKED, {"destination": destination, "key": key}))[0][0]:
            return 0
        return (yield from _release_key(destination, key))


def _lock(message_id: str) -> Program[Row | None]:
    """Lock the hold of a parked record, then the record, in the order in which relays lock; ``None`` if it is gone."""
    found = yield Execute(WHERE_PARKED, {"message_id": message_id})
    if not found:
        return None
    _, destination, key = found[0]
    if key is not None:
        yield Execute(LOCK_HOLD, {"destination": destination, "key": key})
    still = yield Execute(LOCK_PARKED, {"message_id": message_id})
    return still[0] if still else None


def _release_key(destination: str, key: str) -> Program[int]:
    of_key = {"destination": destination, "key": key}
    count = int((yield Execute(COUNT_KEY, of_key))[0][0])
    for statement in PUT_KEY_BACK:
        yield Execute(statement, of_key)
    yield Execute(END_HOLD, of_key)
    return count


def _record(row: Row) -> ParkedRecord:
    position, reason, parked_at, behind, *message = row
    return ParkedRecord(
        position=position,
        message=message_of(message),
        reason=reason or "",
        parked_at=EPOCH + timedelta(microseconds=parked_at),
        behind=behind,
    )
