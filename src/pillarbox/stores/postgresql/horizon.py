"""What may still appear in the outbox on PostgreSQL: read off the identity's sequence and the table's locks.

Whoever appends takes the table's lock before a position, and gives it back after its rows can be seen. So the records
up to a position are all there, or never will be, once those are gone who held the lock after that position was read.
Source: eugene-khyst, *PostgreSQL event sourcing*; River's and Oban's remarks on sequences and commits.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, String, bindparam, func, select, text

from pillarbox.relational.tables import outbox
from pillarbox.relay.low_watermark import Horizon, OutboxHorizon
from pillarbox.transaction import Execute, Program

SEQUENCE = "CAST(pg_get_serial_sequence('pillarbox_outbox', 'position') AS regclass)"
LAST = text(  # NULL before the first position was taken; a role that may not look at the sequence learns nothing
    f"SELECT CASE WHEN has_sequence_privilege(CAST({SEQUENCE} AS oid), 'USAGE, SELECT')"
    f" THEN COALESCE(pg_sequence_last_value({SEQUENCE}), 0) ELSE 0 END AS last"
).columns(last=BigInteger)
WRITERS = text(  # a prepared transaction has no process, and another name than it had before
    "SELECT virtualtransaction, pid IS NULL AS is_prepared FROM pg_locks"
    " WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND relation = CAST('pillarbox_outbox' AS regclass)"
).columns(virtualtransaction=String, is_prepared=Boolean)
OLDEST = select(func.min(outbox.c.position)).where(  # primary key
    outbox.c.position.between(bindparam("first", type_=BigInteger), bindparam("last", type_=BigInteger))
)


class PostgresHorizon(OutboxHorizon):
    """Looks at the sequence first and at the locks then; the other way round a writer could slip between them."""

    def look(self) -> Program[Horizon]:
        """Return both."""
        last = (yield Execute(LAST))[0][0]
        found = yield Execute(WRITERS)
        return Horizon(
            last=last,
            writers=frozenset(name for name, _ in found),
            is_certain=not any(is_prepared for _, is_prepared in found),
        )

    def oldest(self, first: int, last: int) -> Program[int | None]:
        """Walk the primary key."""
        found: int | None = (yield Execute(OLDEST, {"first": first, "last": last}))[0][0]
        return found
