"""Records that were put aside, in SQL: refused ones, those behind them in their key, and how they leave again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
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
from pillarbox.relational.expressions import any_of, insert_into, none_of, now_us, numbers, position_list, texts
from pillarbox.relational.keeping import KEEP_HELD
from pillarbox.relational.leases import is_owned
from pillarbox.relational.rows import RECORD_COLUMNS, columns, message_of, record_message_columns
from pillarbox.relational.tables import outbox, outbox_held, outbox_holds
from pillarbox.relay.reader import Aside, HeldRecords, Key, PendingRecord
from pillarbox.transaction import Execute, Program, Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PARKED, HELD, RELEASED, SKIPPED = "parked", "held", "released", "skipped"
WAITING = (PARKED, HELD, RELEASED)
AT = position_list("positions")

_of_key = (outbox_held.c.destination == bindparam("of_destination", type_=String)) & (
    outbox_held.c.message_key == bindparam("of_key", type_=String)
)
_at_position = outbox_held.c.position == bindparam("at", type_=BigInteger)

# --- holds ------------------------------------------------------------------------------------------------------------
HOLD_KEY = (  # primary key; a hold that is there is locked, so that nobody ends it before we are through
    insert_into(outbox_holds)
    .values(
        destination=bindparam("of_destination", type_=String),
        message_key=bindparam("of_key", type_=String),
        since=now_us(),
    )
    .on_conflict_do_update(index_elements=["destination", "message_key"], set_={"since": outbox_holds.c.since})
)
LOCK_HOLD = (  # primary key; who decides about the key waits for us, or we find the hold gone
    select(outbox_holds.c.destination)
    .where(
        outbox_holds.c.destination == bindparam("of_destination", type_=String),
        outbox_holds.c.message_key == bindparam("of_key", type_=String),
    )
    .with_for_update()
)
END_HOLD = delete(outbox_holds).where(
    outbox_holds.c.destination == bindparam("of_destination", type_=String),
    outbox_holds.c.message_key == bindparam("of_key", type_=String),
)
HOLDS = select(outbox_holds.c.destination, outbox_holds.c.message_key)
HAS_PARKED = select(exists().where(_of_key, outbox_held.c.state == PARKED))
IS_LEFT = select(exists().where(_of_key, outbox_held.c.state.in_(WAITING)))

# --- how records are put aside ----------------------------------------------------------------------------------------
OWNED_AMONG = (  # primary key; fenced, and locked so that what follows in the transaction is still the owner's doing
    select(outbox.c.position, outbox.c.destination, outbox.c.message_key)
    .where(any_of(outbox.c.position, AT), is_owned(outbox.c.slot, locked=True))
    .order_by(outbox.c.position)
)
PUT_ASIDE = insert_into(outbox_held).from_select(
    ["position", *RECORD_COLUMNS, "state", "reason", "parked_at"],
    select(
        *columns(outbox, ("position", *RECORD_COLUMNS)),
        bindparam("state", type_=String),
        bindparam("reason", type_=String),
        now_us(),
    ).where(any_of(outbox.c.position, AT)),
)
REMOVE = delete(outbox).where(any_of(outbox.c.position, AT))

# --- what an operator sees and decides --------------------------------------------------------------------------------
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
RELEASE_ONE = update(outbox_held).where(_at_position).values(state=RELEASED, parked_at=now_us())  # primary key
RELEASE_KEY = (  # index on (destination, message_key, position)
    update(outbox_held)
    .where(_of_key, outbox_held.c.state.in_([PARKED, HELD]))
    .values(state=RELEASED, parked_at=now_us())
)
COUNT_KEY = select(func.count()).select_from(outbox_held).where(_of_key, outbox_held.c.state.in_([PARKED, HELD]))
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

# --- how released records leave ---------------------------------------------------------------------------------------
READ_RELEASED = (  # index on (state, position)
    select(outbox_held.c.position, outbox_held.c.slot, *record_message_columns(outbox_held))
    .where(
        outbox_held.c.state == RELEASED,
        any_of(outbox_held.c.slot, numbers("slots")),
        none_of(outbox_held.c.destination, texts("paused")),
    )
    .order_by(outbox_held.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)
RELEASED_AMONG = (  # primary key; fenced and locked
    select(outbox_held.c.position, outbox_held.c.destination, outbox_held.c.message_key)
    .where(
        any_of(outbox_held.c.position, AT),
        outbox_held.c.state == RELEASED,
        is_owned(outbox_held.c.slot, locked=True),
    )
    .order_by(outbox_held.c.position)
)
REMOVE_RELEASED = delete(outbox_held).where(any_of(outbox_held.c.position, AT), outbox_held.c.state == RELEASED)
PARK_AGAIN = (  # primary key
    update(outbox_held)
    .where(_at_position)
    .values(state=PARKED, reason=bindparam("because", type_=Text), parked_at=now_us())
)
HOLD_AGAIN = (  # index on (destination, message_key, position)
    update(outbox_held).where(_of_key, outbox_held.c.state == RELEASED).values(state=HELD)
)


class RelationalParkedRecords(ParkedRecords):
    """Parked records as rows; a decision changes their states under the lock of the key's hold."""

    def find(self, *, after: int, limit: int) -> Program[Sequence[ParkedRecord]]:
        """Page through the parked rows."""
        return [_record(row) for row in (yield Execute(FIND, {"after": after, "up_to": limit}))]

    def release(self, message_id: str) -> Program[int | None]:
        """Lock, then release the rows of the key; a record without one goes alone."""
        parked = yield from _lock(message_id)
        if parked is None:
            return None
        position, destination, key = parked
        if key is not None:
            return (yield from _release_key((destination, key)))
        yield Execute(RELEASE_ONE, {"at": position})
        return 1

    def skip(self, message_id: str, *, by: str, because: str) -> Program[int | None]:
        """Lock, note the decision in the row, then release the key if nothing of it is parked any more."""
        parked = yield from _lock(message_id)
        if parked is None:
            return None
        position, destination, key = parked
        yield Execute(SKIP, {"at": position, "decided_by": by, "because": because})
        if key is None:
            return 0
        if (yield Execute(HAS_PARKED, _named((destination, key))))[0][0]:
            return 0
        released = yield from _release_key((destination, key))
        yield from _end_empty([(destination, key)])
        return released


class RelationalHeldRecords(HeldRecords):
    """Released records as rows; a hold ends under its row lock, when nothing of its key is left."""

    def holds(self) -> Program[frozenset[Key]]:
        """List the held keys."""
        return frozenset((destination, key) for destination, key in (yield Execute(HOLDS)))

    def read(self, *, slots: Sequence[int], paused: Sequence[str], limit: int) -> Program[Sequence[PendingRecord]]:
        """Read the oldest released rows."""
        rows = yield Execute(READ_RELEASED, {"slots": slots, "paused": paused, "up_to": limit})
        return [PendingRecord(position=row[0], slot=row[1], held=False, message=message_of(row[2:])) for row in rows]

    def settle(
        self, scope: str, tokens: Sequence[int], positions: Sequence[int], *, keep: bool = False
    ) -> Program[int]:
        """Lock the holds, delete the rows, end the holds of keys that have none left."""
        owned = yield Execute(RELEASED_AMONG, {"scope": scope, "tokens": tokens, "positions": positions})
        if not owned:
            return 0
        keys = keys_of(owned)
        for key in keys:
            yield Execute(LOCK_HOLD, _named(key))
        ours = {"positions": [position for position, *_ in owned]}
        if keep:
            yield Execute(KEEP_HELD, ours)
        yield Execute(REMOVE_RELEASED, ours)
        yield from _end_empty(keys)
        return len(owned)

    def park(self, scope: str, tokens: Sequence[int], position: int, *, reason: str) -> Program[bool]:
        """Park the row again and hold what is left of its key."""
        owned = yield Execute(RELEASED_AMONG, {"scope": scope, "tokens": tokens, "positions": [position]})
        if not owned:
            return False
        for key in keys_of(owned):
            yield Execute(HOLD_KEY, _named(key))
            yield Execute(HOLD_AGAIN, _named(key))
        yield Execute(PARK_AGAIN, {"at": position, "because": reason})
        return True


def put_aside(scope: str, tokens: Sequence[int], asides: Sequence[Aside]) -> Program[frozenset[int]]:
    """Move records of the outbox out of the way, fenced; return the positions that were moved.

    A record that is only put behind others stays where it is when its key's hold has ended meanwhile.
    """
    positions = sorted(aside.position for aside in asides)
    owned = yield Execute(OWNED_AMONG, {"scope": scope, "tokens": tokens, "positions": positions})
    by_position = {aside.position: aside for aside in asides}
    moving: dict[tuple[str, str | None], list[int]] = {}
    for key in keys_of(owned):
        here = [by_position[position] for position, *of in owned if tuple(of) == key]
        opens = any(not aside.is_behind for aside in here)
        if opens:
            yield Execute(HOLD_KEY, _named(key))
        elif not (yield Execute(LOCK_HOLD, _named(key))):
            continue
        blocked = any(aside.refused is not None for aside in here) or (yield Execute(HAS_PARKED, _named(key)))[0][0]
        for aside in here:
            moving.setdefault(_state_of(aside, blocked=blocked), []).append(aside.position)
    for position, _, key in owned:
        if key is None and not by_position[position].is_behind:
            moving.setdefault(_state_of(by_position[position], blocked=False), []).append(position)
    for (state, reason), group in moving.items():
        yield Execute(PUT_ASIDE, {"state": state, "reason": reason, "positions": sorted(group)})
        yield Execute(REMOVE, {"positions": sorted(group)})
    return frozenset(position for group in moving.values() for position in group)


def keys_of(rows: Iterable[Row]) -> list[Key]:
    """Return the keys among rows of (position, destination, key), in the order in which they are locked."""
    return sorted({(destination, key) for _, destination, key in rows if key is not None})


def _state_of(aside: Aside, *, blocked: bool) -> tuple[str, str | None]:
    if aside.refused is not None:
        return PARKED, aside.refused
    return (HELD if blocked else RELEASED), None


def _named(key: Key) -> dict[str, object]:
    return {"of_destination": key[0], "of_key": key[1]}


def _lock(message_id: str) -> Program[Row | None]:
    """Lock the hold of a parked record, then the record, in the order in which relays lock; ``None`` if it is gone."""
    found = yield Execute(WHERE_PARKED, {"message_id": message_id})
    if not found:
        return None
    _, destination, key = found[0]
    if key is not None:
        yield Execute(LOCK_HOLD, _named((destination, key)))
    still = yield Execute(LOCK_PARKED, {"message_id": message_id})
    return still[0] if still else None


def _release_key(key: Key) -> Program[int]:
    count = int((yield Execute(COUNT_KEY, _named(key)))[0][0])
    yield Execute(RELEASE_KEY, _named(key))
    return count


def _end_empty(keys: Sequence[Key]) -> Program[None]:
    """End the holds of ``keys``, which are locked, where no record waits any more."""
    for key in keys:
        if not (yield Execute(IS_LEFT, _named(key)))[0][0]:
            yield Execute(END_HOLD, _named(key))


def _record(row: Row) -> ParkedRecord:
    position, reason, parked_at, behind, *message = row
    return ParkedRecord(
        position=position,
        message=message_of(message),
        reason=reason or "",
        parked_at=EPOCH + timedelta(microseconds=parked_at),
        behind=behind,
    )
