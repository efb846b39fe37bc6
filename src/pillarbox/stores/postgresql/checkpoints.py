"""The checkpoint of a log tailing relay, and how records leave the table with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    String,
    Text,
    bindparam,
    cast,
    delete,
    exists,
    func,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import UserDefinedType

from pillarbox.errors import ConfigurationError, StoreUnavailableError
from pillarbox.relational.expressions import any_of, now_us, position_list
from pillarbox.relational.keeping import KEEP
from pillarbox.relational.leases import is_owned
from pillarbox.relational.outbox_held import REMOVE
from pillarbox.relational.rows import message_of, record_message_columns
from pillarbox.relational.tables import outbox, outbox_checkpoint
from pillarbox.relay.log_reader import Checkpoint, GapReason, LogCheckpoints, LogEntry, LogGap, LogState
from pillarbox.relay.reader import Aside, PendingRecord
from pillarbox.stores.postgresql.partitions import SHORT_LOCKS
from pillarbox.stores.postgresql.pgoutput import lsn_of, lsn_text
from pillarbox.stores.postgresql.set_aside import set_aside
from pillarbox.stores.postgresql.slots import DROP_SLOT
from pillarbox.stores.postgresql.tableless import PREFIX
from pillarbox.transaction import Execute, Program

NAME = "outbox"
LOCK_NOT_AVAILABLE = "55P03"
NOWHERE = ""
"""In place of a location in the log: there is none."""


class _Snapshot(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "PG_SNAPSHOT"


_table = outbox_checkpoint
LOAD = select(  # primary key
    _table.c.system_id,
    _table.c.timeline,
    _table.c.slot,
    _table.c.flushed_lsn,
    _table.c.partial_lsn,
    _table.c.partial_rows,
    _table.c.healing_snapshot,
    _table.c.has_table,
).where(_table.c.name == NAME)
_VALUES: dict[str, ColumnElement[Any]] = {
    "name": literal(NAME, String),
    "system_id": bindparam("system_id", type_=String),
    "timeline": bindparam("timeline", type_=BigInteger),
    "slot": bindparam("slot", type_=String),
    "flushed_lsn": bindparam("flushed_lsn", type_=String),
    "partial_lsn": bindparam("partial_lsn", type_=String),
    "partial_rows": bindparam("partial_rows", type_=BigInteger),
    "healing_snapshot": bindparam("healing_snapshot", type_=Text),
    "has_table": bindparam("has_table", type_=Boolean),
    "updated_at": now_us(),
}
_inserted = upsert(_table).from_select(
    list(_VALUES),
    select(*(cast(value, _table.c[name].type) for name, value in _VALUES.items())).where(
        is_owned(literal(0, BigInteger), locked=True)  # a relay of this kind owns all slots, or none
    ),
)
SAVE = _inserted.on_conflict_do_update(  # primary key; fenced, and locked to the end of the transaction
    index_elements=["name"], set_={name: _inserted.excluded[name] for name in _VALUES if name != "name"}
).returning(_table.c.name)
_saved = SAVE.cte("saved")
_removed = (
    delete(outbox)
    .where(any_of(outbox.c.position, position_list("positions")), exists(select(_saved.c.name)))
    .cte("removed")
)
SETTLE = select(_saved.c.name).add_cte(_removed)  # primary keys; what the fence refuses removes nothing
PRESENT = (  # walks the primary key
    select(outbox.c.position, outbox.c.slot, *record_message_columns(outbox))
    .where(
        outbox.c.position > bindparam("after", type_=BigInteger),
        func.pg_visible_in_snapshot(outbox.c.transaction_id, cast(bindparam("snapshot", type_=Text), _Snapshot())),
    )
    .order_by(outbox.c.position)
    .limit(bindparam("up_to", type_=BigInteger))
)
STATE = text(
    "SELECT c.slot, s.wal_status, s.active, CAST(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) AS bigint)"
    " AS retained, CAST(pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn) AS bigint) AS unconfirmed,"
    " CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint) - c.updated_at AS quiet"
    " FROM pillarbox_outbox_checkpoint AS c LEFT JOIN pg_replication_slots AS s"
    " ON s.slot_name = c.slot AND s.database = current_database()"
).columns(slot=String, wal_status=String, active=Boolean, retained=BigInteger, unconfirmed=BigInteger, quiet=BigInteger)
GAP = text(
    "SELECT s.slot_name IS NOT NULL AS is_there, s.wal_status = 'lost' AS is_lost,"
    " s.confirmed_flush_lsn > CAST(c.flushed_lsn AS pg_lsn) AS leads_on_later, c.has_table"
    " FROM pillarbox_outbox_checkpoint AS c LEFT JOIN pg_replication_slots AS s"
    " ON s.slot_name = c.slot AND s.database = current_database() WHERE c.flushed_lsn <> ''"
).columns(is_there=Boolean, is_lost=Boolean, leads_on_later=Boolean, has_table=Boolean)
END_READER = text(  # it may take a moment
    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
    " WHERE slot_name = :slot AND database = current_database() AND active_pid IS NOT NULL"
).bindparams(bindparam("slot", type_=String))
HAS_UNREAD = text(  # reads what the slot holds back; a message of the log bears its prefix ten bytes behind its kind
    "SELECT EXISTS (SELECT FROM pg_replication_slots AS s CROSS JOIN LATERAL pg_logical_slot_peek_binary_changes("
    "s.slot_name, NULL, NULL, VARIADIC ARRAY['proto_version', '1', 'messages', 'true', 'publication_names', coalesce("
    "(SELECT pubname FROM pg_publication_tables WHERE tablename = 'pillarbox_outbox' LIMIT 1), 'pillarbox_outbox')]"
    ") AS change WHERE s.slot_name = :slot AND s.database = current_database() AND s.plugin = 'pgoutput'"
    " AND s.wal_status <> 'lost' AND get_byte(change.data, 0) = ascii('M')"
    " AND substring(change.data FROM 11 FOR length(CAST(:prefix AS text))) = convert_to(:prefix, 'UTF8'))"
).bindparams(bindparam("slot", type_=String), bindparam("prefix", type_=String))
LOCK = text("LOCK TABLE pillarbox_outbox_checkpoint IN ACCESS EXCLUSIVE MODE")
CLOSE = update(_table).where(_table.c.name == NAME).values(flushed_lsn=NOWHERE)  # primary key
FORGET = delete(_table).where(_table.c.name == NAME)  # primary key


class PostgresLogCheckpoints(LogCheckpoints):
    """The checkpoint as a row beside the outbox, so that it is written in the transaction that removes records."""

    def load(self) -> Program[Checkpoint | None]:
        found = yield Execute(LOAD)
        if not found:
            return None
        system_id, timeline, slot, flushed, partial, partial_rows, snapshot, has_table = found[0]
        return Checkpoint(
            system_id=system_id,
            timeline=timeline,
            slot_name=slot,
            flushed_lsn=None if flushed == NOWHERE else lsn_of(flushed),
            partial_lsn=0 if partial == NOWHERE else lsn_of(partial),
            partial_rows=partial_rows,
            healing_snapshot=snapshot,
            has_table=has_table,
        )

    def save(self, scope: str, tokens: Sequence[int], checkpoint: Checkpoint) -> Program[bool]:
        return bool((yield Execute(SAVE, {**_values(checkpoint), "scope": scope, "tokens": tokens})))

    def settle(
        self,
        scope: str,
        tokens: Sequence[int],
        checkpoint: Checkpoint,
        done: Sequence[LogEntry],
        asides: Sequence[Aside],
        *,
        keep: bool,
    ) -> Program[bool]:
        values = {**_values(checkpoint), "scope": scope, "tokens": tokens}
        positions = [entry.record.position for entry in done if entry.in_table]
        if not asides and not keep:
            return bool((yield Execute(SETTLE, {**values, "positions": positions})))
        if not (yield Execute(SAVE, values)):
            return False
        yield from set_aside(scope, tokens, done, asides)
        if keep:
            aside = {one.position for one in asides}
            yield Execute(KEEP, {"positions": [position for position in positions if position not in aside]})
        yield Execute(REMOVE, {"positions": positions})
        return True

    def present(self, snapshot: str, *, after: int, limit: int) -> Program[Sequence[PendingRecord]]:
        rows = yield Execute(PRESENT, {"snapshot": snapshot, "after": after, "up_to": limit})
        return [PendingRecord(position=row[0], slot=row[1], held=False, message=message_of(row[2:])) for row in rows]

    def gap(self) -> Program[LogGap | None]:
        for is_there, is_lost, leads_on_later, has_table in (yield Execute(GAP)):
            if not is_there:
                return LogGap(reason=GapReason.SLOT_MISSING, has_table=has_table)
            if is_lost:
                return LogGap(reason=GapReason.SLOT_LOST, has_table=has_table)
            if leads_on_later:
                return LogGap(reason=GapReason.SLOT_RECREATED, has_table=has_table)
        return None

    def retire(self) -> Program[bool]:
        found = yield Execute(LOAD)
        if not found:
            return False
        slot, flushed = {"slot": found[0][2]}, found[0][3]
        if (yield Execute(END_READER, slot)):
            return True
        if flushed != NOWHERE:
            yield from _close(found[0][2])
            return True
        yield Execute(DROP_SLOT, slot)  # which no rollback undoes: from the commit before on nobody writes into the log
        yield Execute(FORGET)
        return False

    def state(self) -> Program[LogState | None]:
        found = yield Execute(STATE)
        if not found:
            return None
        slot, wal_status, is_active, retained, unconfirmed, quiet_us = found[0]
        return LogState(
            slot_name=slot,
            is_there=wal_status is not None and wal_status != "lost",
            is_read=bool(is_active),
            retained_bytes=int(retained or 0),
            unconfirmed_bytes=int(unconfirmed or 0),
            quiet_for=timedelta(microseconds=max(int(quiet_us), 0)),
        )


def _close(slot: str) -> Program[None]:
    """Let producers write rows from the commit on, if all that they wrote into the log was read.

    Who writes into the log holds a lock on the table of checkpoints to the end of his transaction. So nobody does while
    the lock is held here, for which others wait; hence a look before it too, that finds most of what is unread.

    Raises:
        StoreUnavailableError: some are still at it; being transient, it is tried again after a pause only.
    """
    yield from _make_sure_all_is_read(slot)
    yield Execute(SHORT_LOCKS)
    try:
        yield Execute(LOCK)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
            raise
        reason = "transactions are open that may have written into the log"
        raise StoreUnavailableError(store="PostgreSQL", reason=reason) from error
    yield from _make_sure_all_is_read(slot)
    yield Execute(CLOSE)


def _make_sure_all_is_read(slot: str) -> Program[None]:
    if (yield Execute(HAS_UNREAD, {"slot": slot, "prefix": PREFIX}))[0][0]:
        raise ConfigurationError(
            "messages of a table-less outbox stand in the log and nowhere else; let a relay of the kind 'log' "
            "publish them before another kind takes over"
        )


def _values(checkpoint: Checkpoint) -> dict[str, object]:
    flushed, partial = checkpoint.flushed_lsn, checkpoint.partial_lsn
    return {
        "system_id": checkpoint.system_id,
        "timeline": checkpoint.timeline,
        "slot": checkpoint.slot_name,
        "flushed_lsn": NOWHERE if flushed is None else lsn_text(flushed),
        "partial_lsn": lsn_text(partial) if partial else NOWHERE,
        "partial_rows": checkpoint.partial_rows,
        "healing_snapshot": checkpoint.healing_snapshot,
        "has_table": checkpoint.has_table,
    }
