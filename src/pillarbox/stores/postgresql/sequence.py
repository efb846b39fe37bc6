"""The outbox as a sequence relay sees it on PostgreSQL: windows between two snapshots.

A record carries the number of its outermost transaction. A snapshot names the transactions that were under way; so the
records that one snapshot sees and an earlier one did not are those of the transactions that were under way then, looked
up one by one, and those of transactions that began later. Source: PgQ, ``pgq.next_batch``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, Boolean, Text, bindparam, column, text

from pillarbox.message import Message
from pillarbox.relational.cursor import advance, load, retire
from pillarbox.relational.rows import message_of
from pillarbox.relay.reader import Aside, PendingRecord
from pillarbox.relay.sequence import Cursor, SequenceReader, Window
from pillarbox.transaction import Execute, Program

BEGINNING = "1:1:"
"""A snapshot that sees nothing: the first transaction of a cluster has number 3."""

SYSTEM_ID = text("SELECT CAST(system_identifier AS TEXT) FROM pg_control_system()").columns(id=Text)
IS_AHEAD = (  # of all transactions of this cluster, whose identity is that of the image it was made of
    text("SELECT pg_snapshot_xmax(CAST(:until AS pg_snapshot)) > pg_snapshot_xmax(pg_current_snapshot()) AS is_ahead")
    .bindparams(bindparam("until", type_=Text))
    .columns(is_ahead=Boolean)
)
NUMBER_ANEW = text(  # index (transaction_id, position); a snapshot of this cluster sees none of them for ages
    "UPDATE pillarbox_outbox SET transaction_id = pg_current_xact_id()"
    " WHERE transaction_id >= pg_snapshot_xmax(pg_current_snapshot())"
)
_since = bindparam("since", type_=Text)
FLOOR = (  # index (transaction_id, position); OFFSET keeps the planner from walking the primary key instead
    "(SELECT min(position) FROM (SELECT position FROM pillarbox_outbox"
    " WHERE transaction_id >= pg_snapshot_xmax(CAST(:since AS pg_snapshot)) OFFSET 0) AS began_later)"
)
FLOOR_OF = text(f"SELECT {FLOOR} AS floor").bindparams(_since).columns(floor=BigInteger)
FOLLOWING = (
    text(
        f"SELECT CAST(pg_current_snapshot() AS TEXT) AS until, {FLOOR} AS floor, EXISTS ("
        "SELECT FROM pg_snapshot_xip(CAST(:since AS pg_snapshot)) AS late(xid)"
        " JOIN pillarbox_outbox ON transaction_id = late.xid) AS has_late"
    )
    .bindparams(_since)
    .columns(until=Text, floor=BigInteger)
)
_RECORD = "position, slot, id, event_type, destination, message_key, content_type, headers, payload"
_WALKS = text(  # two walks in the order of positions, merged: each stops at the limit
    f"SELECT {_RECORD} FROM ("
    f"(SELECT found.* FROM pg_snapshot_xip(CAST(:since AS pg_snapshot)) AS late(xid) CROSS JOIN LATERAL ("
    f"SELECT {_RECORD} FROM pillarbox_outbox"
    " WHERE transaction_id BETWEEN late.xid AND late.xid AND position > :after"  # so that only its index has the order
    " AND pg_visible_in_snapshot(transaction_id, CAST(:until AS pg_snapshot))"
    " ORDER BY transaction_id, position LIMIT :up_to) AS found ORDER BY position LIMIT :up_to)"
    " UNION ALL "
    f"(SELECT {_RECORD} FROM pillarbox_outbox"
    " WHERE position > :after AND position >= :floor"
    " AND transaction_id >= pg_snapshot_xmax(CAST(:since AS pg_snapshot))"
    " AND pg_visible_in_snapshot(transaction_id, CAST(:until AS pg_snapshot))"
    " ORDER BY position LIMIT :up_to)"
    ") AS both_walks ORDER BY position LIMIT :up_to"
).bindparams(
    _since,
    bindparam("until", type_=Text),
    bindparam("after", type_=BigInteger),
    bindparam("floor", type_=BigInteger),
    bindparam("up_to", type_=BigInteger),
)
READ = _WALKS.columns(*map(column, _RECORD.split(", ")))  # known to return rows, so that "none" is not just believed


class PostgresSequenceReader(SequenceReader):
    """Reads windows by their two snapshots."""

    def load(self, scope: str, tokens: Sequence[int]) -> Program[Cursor | None]:
        """Compare the cluster that the cursor was written in with this one.

        A restored dump names transactions of another cluster. At the beginning those that have not begun here are
        replaced by our own.
        """
        system_id = yield from _system_id()
        cursor = yield from load(scope, tokens, beginning=BEGINNING, system_id=system_id)
        if cursor is not None and (yield Execute(IS_AHEAD, {"until": cursor.until}))[0][0]:
            return None
        if cursor is not None and cursor.since == BEGINNING:
            yield Execute(NUMBER_ANEW)
        return cursor

    def rebase(self, scope: str, tokens: Sequence[int], *, keep: bool, limit: int) -> Program[bool]:
        """Remove what the cursor surely passed."""
        return (yield from retire(limit, keep=keep))

    def reopen(self, cursor: Cursor) -> Program[Window]:
        """Find the floor again."""
        floor = (yield Execute(FLOOR_OF, {"since": cursor.since}))[0][0]
        return Window(since=cursor.since, until=cursor.until, floor=floor or 0)

    def following(self, since: str) -> Program[Window | None]:
        """Take a snapshot, and look whether it sees anything new."""
        until, floor, has_late = (yield Execute(FOLLOWING, {"since": since}))[0]
        if floor is None and not has_late:
            return None
        return Window(since=since, until=until, floor=floor or 0)

    def read(self, window: Window, *, after: int, limit: int) -> Program[Sequence[PendingRecord]]:
        """Merge the records of late transactions with those of later ones."""
        values = {"since": window.since, "until": window.until, "floor": window.floor, "after": after, "up_to": limit}
        return [_pending(row[0], row[1], message_of(row[2:])) for row in (yield Execute(READ, values))]

    def advance(
        self, scope: str, tokens: Sequence[int], *, old: Cursor, new: Cursor, asides: Sequence[Aside]
    ) -> Program[bool]:
        """Compare and set."""
        return advance(scope, tokens, old=old, new=new, asides=asides)


def _pending(position: int, slot: int, message: Message) -> PendingRecord:
    return PendingRecord(position=position, slot=slot, held=False, message=message)


def _system_id() -> Program[str]:
    return str((yield Execute(SYSTEM_ID))[0][0])
