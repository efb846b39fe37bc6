"""The outbox in partitions of PostgreSQL, by position; source: PgQ's rotated tables, pg_partman.

Rows that a cursor has passed leave with their partition, so that there is nothing to vacuum. The default partition
takes what nobody made a partition for; with it there can be no ``DETACH … CONCURRENTLY``, hence the short locks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import BigInteger, Boolean, MetaData, String, Table, Text, bindparam, text

from pillarbox.outbox import OutboxPartitions, Partition
from pillarbox.relational.expressions import micros
from pillarbox.relational.tables import outbox
from pillarbox.stores.postgresql.horizon import SEQUENCE
from pillarbox.transaction import Execute, Program

DEFAULT: Table = outbox.to_metadata(MetaData(), name="pillarbox_outbox_default")
"""The partition whose rows are removed one by one."""

LARGEST_DEFAULT = 64 * 1024 * 1024
"""Bytes of the default partition above which none is made: making one reads it through, while appending waits."""

SHORT_LOCKS = text("SET LOCAL lock_timeout = '150ms'")
STATE = text(  # whether the role may make partitions, the highest position handed out, the default one's size
    "SELECT pg_has_role(relowner, 'USAGE') AND has_schema_privilege(relnamespace, 'CREATE') AS is_ours,"
    f" CASE WHEN pg_has_role(relowner, 'USAGE') THEN COALESCE(pg_sequence_last_value({SEQUENCE}), 0) ELSE 0 END"
    " AS last, pg_relation_size('pillarbox_outbox_default') AS bytes"
    " FROM pg_class WHERE oid = CAST('pillarbox_outbox' AS regclass)"
).columns(is_ours=Boolean, last=BigInteger, bytes=BigInteger)
PARTITIONS = text(
    "SELECT relname, CAST(bounds[1] AS BIGINT) AS first, CAST(bounds[2] AS BIGINT) AS last FROM ("
    "SELECT part.relname, regexp_match(pg_get_expr(part.relpartbound, part.oid),"
    " 'FROM \\(''?(\\d+)''?\\) TO \\(''?(\\d+)''?\\)') AS bounds"
    " FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid"
    " WHERE inhparent = CAST('pillarbox_outbox' AS regclass)) AS parts WHERE bounds IS NOT NULL ORDER BY 2"
).columns(relname=String, first=BigInteger, last=BigInteger)
LOCK_APPENDING = text("LOCK TABLE ONLY pillarbox_outbox IN SHARE ROW EXCLUSIVE MODE")
LOCK_DEFAULT = text("LOCK TABLE pillarbox_outbox_default IN ACCESS EXCLUSIVE MODE")
LOCK_OUTBOX = text("LOCK TABLE ONLY pillarbox_outbox IN ACCESS EXCLUSIVE MODE")

_PENDING = (  # NULL where no cursor stands, so that all is pending; in another cluster what is above its highest
    "EXISTS (SELECT FROM {name} AS record WHERE record.transaction_id BETWEEN COALESCE(pg_snapshot_xmin(c.since),"
    " CAST('0' AS xid8)) AND CAST('18446744073709551615' AS xid8)"
    " AND (pg_visible_in_snapshot(record.transaction_id, c.since) OR (record.position <= c.position"
    " AND pg_visible_in_snapshot(record.transaction_id, c.until))) IS NOT TRUE)"
    " OR COALESCE((SELECT max(record.position) FROM {name} AS record) > c.highest, false)"
)
_CURSOR = (
    "(SELECT 1) AS one LEFT JOIN (SELECT CAST(since AS pg_snapshot) AS since, CAST(until AS pg_snapshot) AS until,"
    " position, highest FROM {table} ORDER BY {newest} LIMIT 1) AS c ON true"
)
_NOW_CURSOR = _CURSOR.format(table="pillarbox_outbox_cursor WHERE name = 'outbox'", newest="name")
_OLD_CURSOR = _CURSOR.format(
    table="pillarbox_outbox_cursor_history WHERE at <= CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
    " - :older_us",
    newest="at DESC",
)


class PostgresOutboxPartitions(OutboxPartitions):
    """Declarative partitions; a name holds the bounds, so that each is made once."""

    def extend(self, rows: int) -> Program[bool]:
        """Make the next one above all positions in use, by far enough that no open transaction has one there.

        It is made while no transaction is open that has appended: such a one learns of no partition that is made
        meanwhile, would look for its next record's place in the default one, and be refused.
        """
        if (yield from _next_first(rows)) is None:
            return False
        yield Execute(SHORT_LOCKS)
        yield Execute(LOCK_APPENDING)
        yield Execute(LOCK_DEFAULT)
        first = yield from _next_first(rows)
        if first is None:
            return False
        name = f"pillarbox_outbox_{first}_{first + rows}"
        made = f"CREATE TABLE {name} (LIKE pillarbox_outbox INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
        yield Execute(text(made))
        attached = f"ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({first + rows})"
        yield Execute(text(f"ALTER TABLE pillarbox_outbox {attached}"))
        return True

    def find_droppable(self, older_than: timedelta) -> Program[Sequence[Partition]]:
        """Look at those below the positions in use, without a lock."""
        is_ours, last, _ = (yield Execute(STATE))[0]
        found: list[Partition] = []
        if not is_ours:
            return found
        for name, first, end in (yield Execute(PARTITIONS)):
            if end > last:
                break
            cursor = _OLD_CURSOR if older_than else _NOW_CURSOR
            values = {"older_us": micros(older_than)} if older_than else {}
            looking = (
                f"SELECT {_PENDING.format(name=name)} AS wanted, CAST(pg_current_snapshot() AS TEXT) FROM {cursor}"
            )
            statement = text(looking).columns(wanted=Boolean, seen=Text)
            is_wanted, seen = (yield Execute(statement, values))[0]
            if not is_wanted:
                found.append(Partition(name=name, first=first, end=end, seen=seen))
        return found

    def drop(self, partition: Partition) -> Program[bool]:
        """Look again under the lock: for rows that were not seen, those of transactions that were open then."""
        yield Execute(SHORT_LOCKS)
        yield Execute(LOCK_OUTBOX)
        if partition.name not in [name for name, *_ in (yield Execute(PARTITIONS))]:
            return False
        late = (
            f"SELECT EXISTS (SELECT FROM {partition.name} WHERE transaction_id >="
            " pg_snapshot_xmin(CAST(:seen AS pg_snapshot))"
            " AND NOT pg_visible_in_snapshot(transaction_id, CAST(:seen AS pg_snapshot)))"
        )
        statement = text(late).bindparams(bindparam("seen", type_=Text)).columns(late=Boolean)
        if (yield Execute(statement, {"seen": partition.seen}))[0][0]:
            return False
        yield Execute(text(f"DROP TABLE {partition.name}"))
        return True


def _next_first(rows: int) -> Program[int | None]:
    """Return where the next partition begins; ``None`` when none is needed, or none can be made.

    That is so where the default partition is too large, and for a role that does not own the outbox.
    """
    is_ours, last, size = (yield Execute(STATE))[0]
    end = max((found[2] for found in (yield Execute(PARTITIONS))), default=0)
    if not is_ours or end - last > rows or size > LARGEST_DEFAULT:
        return None
    return int(max(end, last + rows // 10))
