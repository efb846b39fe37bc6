"""What is locked on PostgreSQL, how long anybody waits for it, and how those lose it who stand still."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Double, Integer, Text, TextClause, bindparam, text

from pillarbox.relational import KeyLocks, numbers
from pillarbox.relational.tables import PREFIX

LOCK_SPACE = 0x50_42_4F_58
"""The first half of the advisory locks that keys take; the second half is the key's bucket."""
MIGRATION_LOCK = text(f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, -1)")
LOCK_WAIT = "SET LOCAL lock_timeout = '10s'"
IDLE_LIMIT = (
    "SELECT set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '{idle}', true),"
    " set_config('statement_timeout', '{begun}', true)"
)
LOCK_KEYS = text(  # a function scan returns the array in order, so every transaction locks in the same order
    f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, CAST(bucket AS integer)) FROM unnest(:buckets) AS bucket"
).bindparams(numbers("buckets"))
TRY_LOCK_KEYS = text(
    "SELECT bucket FROM unnest(:buckets) AS bucket "
    f"WHERE pg_try_advisory_xact_lock({LOCK_SPACE}, CAST(bucket AS integer))"
).bindparams(numbers("buckets"))
LOCKED = (  # OFFSET keeps the planner from taking the function apart from the row that follows it
    text(f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, CAST(:bucket AS INTEGER)) AS locked OFFSET 0")
    .bindparams(bindparam("bucket", type_=Integer))
    .columns(locked=Text)
    .subquery("locked")
)
KEY_LOCKS = KeyLocks(lock=LOCK_KEYS, try_lock=TRY_LOCK_KEYS, locked=LOCKED)
END_RESTING = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity AS client"
    " WHERE datname = current_database() AND usename = current_user AND backend_type = 'client backend'"
    " AND state = 'active' AND wait_event = 'ClientRead'"
    " AND state_change < clock_timestamp() - make_interval(secs => :rested_s)"
    r" AND query !~* '\mcopy\M'"
    " AND EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = client.pid"
    f" AND (locktype = 'advisory' AND classid = {LOCK_SPACE} OR locktype = 'relation'"
    f" AND relation IN (SELECT oid FROM pg_class WHERE relname ~ '^{PREFIX}')))"
).bindparams(bindparam("rested_s", type_=Double))
"""Ends the connections of clients that stand in the midst of an exchange and have locked something of ours.

A client that has parsed a statement and does not go on is neither idle, for PostgreSQL, nor at a statement that
takes too long: the server reads, and a cancellation has to wait. asyncpg stands there at each statement that is new to
a connection; one that is frozen there would keep its locks until it thaws. (``transaction_timeout`` of 17 ends it.)
Who copies rows into a table may rightly stand there for long.
"""


def idle_limit(within: timedelta) -> TextClause:
    """Return the statement that bounds the wait for locks, and the silence of the client, in its transaction.

    A statement of somebody who has given up waiting for it ends too, after twice the time.
    """
    idle = max(within // timedelta(milliseconds=1), 1)
    return text(IDLE_LIMIT.format(idle=f"{idle}ms", begun=f"{2 * idle}ms"))
