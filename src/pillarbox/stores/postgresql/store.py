"""What PostgreSQL needs besides the shared statements: drivers, key locks, its errors."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from sqlalchemy import Engine, Integer, Text, TextClause, bindparam, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pillarbox.errors import ConfigurationError, MissingExtraError
from pillarbox.relational import DatabaseTraits, KeyLocks, RelationalStore, numbers
from pillarbox.stores.postgresql.bounded import bounded_connection
from pillarbox.stores.postgresql.brief import END_RESTING
from pillarbox.stores.postgresql.direct import AsyncpgStore, PostgresStore
from pillarbox.stores.postgresql.horizon import PostgresHorizon
from pillarbox.stores.postgresql.log_access import PostgresLogAccess
from pillarbox.stores.postgresql.partitions import DEFAULT, PostgresOutboxPartitions
from pillarbox.stores.postgresql.sequence import PostgresSequenceReader

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

SERIALIZATION_FAILURE, DEADLOCK, LOCK_NOT_AVAILABLE = "40001", "40P01", "55P03"
DRIVERS = ("psycopg", "asyncpg")


def is_conflict(error: BaseException) -> bool:
    """Tell whether PostgreSQL asks for the whole transaction again."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state in (SERIALIZATION_FAILURE, DEADLOCK, LOCK_NOT_AVAILABLE)


def idle_limit(within: timedelta) -> TextClause:
    """Return the statement that bounds the wait for locks, and the silence of the client, in its transaction.

    A statement of somebody who has given up waiting for it ends too, after twice the time.
    """
    idle = max(within // timedelta(milliseconds=1), 1)
    return text(IDLE_LIMIT.format(idle=f"{idle}ms", begun=f"{2 * idle}ms"))


def sever(connection: Any) -> None:
    """End a connection of asyncpg or psycopg; the latter waits for its socket, whatever happens to the object."""
    if hasattr(connection, "terminate"):
        connection.terminate()
        return
    if not connection.closed:
        with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as its_own:
            its_own.shutdown(socket.SHUT_RDWR)


LOCKED = (  # OFFSET keeps the planner from taking the function apart from the row that follows it
    text(f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, CAST(:bucket AS INTEGER)) AS locked OFFSET 0")
    .bindparams(bindparam("bucket", type_=Integer))
    .columns(locked=Text)
    .subquery("locked")
)
KEY_LOCKS = KeyLocks(lock=LOCK_KEYS, try_lock=TRY_LOCK_KEYS, locked=LOCKED)
TRAITS = DatabaseTraits(
    name="PostgreSQL",
    key_locks=KEY_LOCKS,
    migration_lock=MIGRATION_LOCK,
    lock_wait=text(LOCK_WAIT),
    idle_limit=idle_limit,
    end_resting=END_RESTING,
    writes_in_with=True,
    conflicts=is_conflict,
    sever=sever,
    sequence=PostgresSequenceReader(),
    horizon=PostgresHorizon(),
    partitions=PostgresOutboxPartitions(),
    removed_by_row=DEFAULT,
)


def postgresql_store(database: URL | AsyncEngine | Engine, *, pool_size: int = 10) -> RelationalStore:
    """Make the store; connects to nothing.

    Args:
        database: a URL (``postgresql://``, ``postgresql+psycopg://`` or ``postgresql+asyncpg://``), or an engine of
            the caller's, which stays the caller's to close. A synchronous engine lends its URL.
        pool_size: connections kept of each engine made here.

    Raises:
        MissingExtraError: the driver is not installed.
    """
    url = database if isinstance(database, URL) else database.url
    url = _with_driver(url, is_engines=not isinstance(database, URL))
    options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": pool_size}
    sync_url = url.set(drivername="postgresql+psycopg")
    is_direct = url.get_driver_name() == "asyncpg"
    is_lent = isinstance(database, AsyncEngine)
    bounds: dict[str, Any] = {}
    if is_direct and not is_lent:
        bounds["connect_args"] = {"connection_class": bounded_connection(LOCK_WAIT)}
    engine = database if isinstance(database, AsyncEngine) else create_async_engine(url, **options, **bounds)
    return (AsyncpgStore if is_direct else PostgresStore)(
        engine,
        sync_engine=database if isinstance(database, Engine) else lambda: create_engine(sync_url, **options),
        traits=replace(TRAITS, log=PostgresLogAccess(sync_url, KEY_LOCKS), begins_bounded=bool(bounds)),
        owns_engine=not is_lent,
    )


def _with_driver(url: URL, *, is_engines: bool) -> URL:
    """Return ``url`` with a driver: asyncpg where none is named, since it moves rows at half the cost.

    A URL with settings keeps to psycopg, which understands them all (``sslmode=…``), as libpq does. The URL of an
    engine may name a driver that is not used here.
    """
    quickest = "psycopg" if url.query or find_spec("asyncpg") is None else "asyncpg"
    driver = url.get_driver_name() if "+" in url.drivername else quickest
    if driver not in DRIVERS and is_engines:
        driver = "psycopg"
    elif driver not in DRIVERS:
        raise ConfigurationError(f"the PostgreSQL store does not speak through {driver!r}; name psycopg or asyncpg")
    if find_spec(driver) is None:
        raise MissingExtraError(module=driver, extra="postgres", needed_for="the PostgreSQL store")
    return url.set(drivername=f"postgresql+{driver}")
