"""The cursor of a sequence relay in SQL, and putting away what one kind of relay left for the next."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    String,
    Text,
    and_,
    bindparam,
    delete,
    false,
    func,
    literal,
    select,
    update,
)

from pillarbox.errors import LeaseLostError
from pillarbox.relational.expressions import (
    any_of,
    insert_into,
    is_passed,
    may_be_pending,
    now_us,
    numbers,
    position_list,
)
from pillarbox.relational.keeping import KEEP, KEEP_NOTED
from pillarbox.relational.leases import is_owned
from pillarbox.relational.outbox_held import put_aside
from pillarbox.relational.tables import leases, outbox, outbox_cursor, outbox_cursor_history
from pillarbox.relay.handover import RelayMarks
from pillarbox.relay.log_reader import LogCheckpoints, LogGap
from pillarbox.relay.reader import Aside
from pillarbox.relay.sequence import Cursor
from pillarbox.relay.settings import RelayKind
from pillarbox.transaction import Execute, Program, Row

NAME = "outbox"
MARKS_AT_A_TIME = 100
"""Notes of the cursor that one transaction of a hand-over goes through."""
AT = position_list("positions")
_up_to = bindparam("up_to", type_=BigInteger)
_since, _until = bindparam("since", type_=Text), bindparam("until", type_=Text)
_at, _highest = bindparam("at", type_=BigInteger), bindparam("highest", type_=BigInteger)

OWNS_ANY = (  # primary key prefix; locked so that no whole owner comes while the transaction lasts
    select(leases.c.slot)
    .where(leases.c.scope == bindparam("scope", type_=String), any_of(leases.c.token, numbers("tokens")))
    .limit(1)
    .with_for_update(read=True)
)
LOAD = (  # primary key; who came before may still be writing
    select(
        outbox_cursor.c.since,
        outbox_cursor.c.until,
        outbox_cursor.c.position,
        outbox_cursor.c.highest,
        outbox_cursor.c.system_id,
    )
    .where(outbox_cursor.c.name == NAME)
    .with_for_update()
)
CREATE = insert_into(outbox_cursor).values(
    name=NAME,
    since=_since,
    until=_since,
    position=0,
    highest=0,
    system_id=bindparam("system_id", type_=String),
    updated_at=now_us(),
)
ADVANCE = (  # primary key; compare and set, fenced
    update(outbox_cursor)
    .where(
        outbox_cursor.c.name == NAME,
        outbox_cursor.c.since == bindparam("old_since", type_=Text),
        outbox_cursor.c.until == bindparam("old_until", type_=Text),
        outbox_cursor.c.position == bindparam("old_at", type_=BigInteger),
        is_owned(literal(0, BigInteger), locked=False),
    )
    .values(since=_since, until=_until, position=_at, highest=_highest, updated_at=now_us())
    .returning(outbox_cursor.c.position)
)
FORGET_HISTORY = delete(outbox_cursor_history)
FIRST_MARKS = (  # primary key
    select(
        outbox_cursor_history.c.at,
        outbox_cursor_history.c.since,
        outbox_cursor_history.c.until,
        outbox_cursor_history.c.position,
        outbox_cursor_history.c.highest,
    )
    .order_by(outbox_cursor_history.c.at)
    .limit(_up_to)
)
FORGET_MARK = delete(outbox_cursor_history).where(  # primary key
    outbox_cursor_history.c.at == bindparam("noted_at", type_=BigInteger)
)
END = delete(outbox_cursor).where(outbox_cursor.c.name == NAME)

PASSED = (  # walks the primary key; in a cluster of other transaction numbers only what was surely published counts
    select(outbox.c.position)
    .where(
        outbox.c.position <= _highest,
        is_passed(outbox.c.position, outbox.c.transaction_id, _since, _until, _at),
    )
    .order_by(outbox.c.position)
    .limit(_up_to)
)
REMOVE = delete(outbox).where(any_of(outbox.c.position, AT))


def pending() -> ColumnElement[bool]:
    """Return the condition that a record is still to be published, whichever kind of relay works."""
    since, until, at = (
        select(column).where(outbox_cursor.c.name == NAME).scalar_subquery()
        for column in (outbox_cursor.c.since, outbox_cursor.c.until, outbox_cursor.c.position)
    )
    passed = func.coalesce(is_passed(outbox.c.position, outbox.c.transaction_id, since, until, at), false())
    return and_(may_be_pending(outbox.c.transaction_id, since), ~passed)


class RelationalRelayMarks(RelayMarks):
    """A row for each kind of relay that has a place of its own."""

    def __init__(self, log: LogCheckpoints | None = None) -> None:
        """Retire the place in ``log`` too; ``None`` where there is no log to be read."""
        self._log = log

    def gap(self, successor: RelayKind) -> Program[LogGap | None]:
        """Ask the log, where there is one."""
        if successor is RelayKind.LOG or self._log is None:
            return None
        return (yield from self._log.gap())

    def clear(
        self, scope: str, tokens: Sequence[int], *, successor: RelayKind, keep: bool, limit: int
    ) -> Program[bool]:
        """Look under the lock of the leases; most of the time there is nothing."""
        if not (yield Execute(OWNS_ANY, {"scope": scope, "tokens": tokens})):
            return False
        if successor is not RelayKind.LOG and self._log is not None and (yield from self._log.retire()):
            return True
        if successor is RelayKind.SEQUENCE:
            return False
        return (yield from retire(limit, keep=keep))


def retire(limit: int, *, keep: bool) -> Program[bool]:
    """Move up to ``limit`` records that the cursor has passed out of the outbox, then end the cursor.

    They are kept among the published ones if ``keep`` says so. Returns whether more is left.
    """
    found = yield Execute(LOAD)
    if not found:
        return False
    if keep and (yield from _keep_noted(limit)):
        return True
    since, until, at, highest, _ = found[0]
    cursor = {"since": since, "until": until, "at": at, "highest": highest}
    positions = [position for (position,) in (yield Execute(PASSED, {**cursor, "up_to": limit}))]
    if positions and keep:
        yield Execute(KEEP, {"positions": positions})
    if positions:
        yield Execute(REMOVE, {"positions": positions})
    if len(positions) == limit:
        return True
    yield Execute(END)
    yield Execute(FORGET_HISTORY)
    return False


def _keep_noted(limit: int) -> Program[bool]:
    """Keep up to ``limit`` records as published when the cursor was first noted behind them.

    By that time they are republished and purged, as they would have been had they stayed. Returns whether to go on.
    """
    marks = yield Execute(FIRST_MARKS, {"up_to": MARKS_AT_A_TIME})
    for noted_at, since, until, at, highest in marks:
        cursor = {"since": since, "until": until, "at": at, "highest": highest}
        positions = [position for (position,) in (yield Execute(PASSED, {**cursor, "up_to": limit}))]
        if positions:
            yield Execute(KEEP_NOTED, {"positions": positions, "noted_at": noted_at})
            yield Execute(REMOVE, {"positions": positions})
        limit -= len(positions)
        if not limit:
            return True
        yield Execute(FORGET_MARK, {"noted_at": noted_at})
    return bool(marks)


def load(scope: str, tokens: Sequence[int], *, beginning: str, system_id: str) -> Program[Cursor | None]:
    """Return the cursor, made at ``beginning`` when there is none; ``None`` when it is of another ``system_id``.

    Raises:
        LeaseLostError: none of ``tokens`` is valid.
    """
    if not (yield Execute(OWNS_ANY, {"scope": scope, "tokens": tokens})):
        raise LeaseLostError(lease=scope, token=max(tokens, default=0))
    found = yield Execute(LOAD)
    if not found:
        yield Execute(CREATE, {"since": beginning, "system_id": system_id})
        found = yield Execute(LOAD)
    *cursor, written_in = found[0]
    return cursor_of(cursor) if written_in == system_id else None


def advance(scope: str, tokens: Sequence[int], *, old: Cursor, new: Cursor, asides: Sequence[Aside]) -> Program[bool]:
    """Compare and set the cursor; what ``asides`` names leaves the outbox in the same transaction.

    The cursor goes first: while its row is locked nobody else moves it, and a move that is refused changed nothing.

    Raises:
        LeaseLostError: the slots are another's by now, so that not all of ``asides`` could be moved; rolls back.
    """
    values = {
        "scope": scope,
        "tokens": tokens,
        "since": new.since,
        "until": new.until,
        "at": new.position,
        "highest": new.highest,
        "old_since": old.since,
        "old_until": old.until,
        "old_at": old.position,
    }
    if not (yield Execute(ADVANCE, values)):
        return False
    if asides and len((yield from put_aside(scope, tokens, asides))) < len(asides):
        raise LeaseLostError(lease=scope, token=max(tokens, default=0))
    return True


def cursor_of(row: Row) -> Cursor:
    """Return the cursor of a row (since, until, position, highest)."""
    since, until, position, highest = row
    return Cursor(since=since, until=until, position=position, highest=highest)
