"""Key locks as rows: neither MySQL nor MariaDB has advisory locks that end with a transaction."""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, Select, Table, select
from sqlalchemy.schema import CreateTable

from pillarbox.outbox import LOCK_BUCKETS
from pillarbox.relational import KeyLocks, numbers
from pillarbox.relational.expressions import any_of, insert_into, values_of
from pillarbox.relational.mysql_types import BOTH, TABLE_OPTIONS

key_locks = Table(
    "pillarbox_key_locks",
    MetaData(),
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    **TABLE_OPTIONS,
)
CREATE = CreateTable(key_locks, if_not_exists=True)
FILL = (
    insert_into(key_locks)
    .from_select(["bucket"], select(values_of(numbers("buckets"), Integer()).c.value))
    .on_conflict_do_nothing()
)
EVERY_BUCKET = {"buckets": list(range(LOCK_BUCKETS))}


def _rows() -> Select[tuple[int]]:
    """Return the rows of the parameter ``buckets`` in order, found by the primary key: a scan would lock the others."""
    found = select(key_locks.c.bucket).where(any_of(key_locks.c.bucket, numbers("buckets")))
    for name in BOTH:
        found = found.with_hint(key_locks, "FORCE INDEX (PRIMARY)", name)
    return found.order_by(key_locks.c.bucket)


LOCKS = KeyLocks(lock=_rows().with_for_update(), try_lock=_rows().with_for_update(skip_locked=True))
