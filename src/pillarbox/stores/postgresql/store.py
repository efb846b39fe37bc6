"""What PostgreSQL needs besides the shared statements: drivers, key locks, its errors."""

from __future__ import annotations

import socket
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pillarbox.errors import ConfigurationError, MissingExtraError
from pillarbox.relational import DatabaseTraits, RelationalStore
from pillarbox.stores.postgresql.bounded import bounded_connection
from pillarbox.stores.postgresql.direct import AsyncpgStore, PostgresStore
from pillarbox.stores.postgresql.horizon import PostgresHorizon
from pillarbox.stores.postgresql.locks import END_RESTING, KEY_LOCKS, LOCK_WAIT, MIGRATION_LOCK, idle_limit
from pillarbox.stores.postgresql.log_access import PostgresLogAccess
from pillarbox.stores.postgresql.partitions import DEFAULT, PostgresOutboxPartitions
from pillarbox.stores.postgresql.sequence import PostgresSequenceReader

SERIALIZATION_FAILURE, DEADLOCK, LOCK_NOT_AVAILABLE = "40001", "40P01", "55P03"
DRIVERS = ("psycopg", "asyncpg")


def is_conflict(error: BaseException) -> bool:
    """Tell whether PostgreSQL asks for the whole transaction again."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state in (SERIALIZATION_FAILURE, DEADLOCK, LOCK_NOT_AVAILABLE)


def sever(connection: Any) -> None:
    """End a connection of asyncpg or psycopg; the latter waits for its socket, whatever happens to the object."""
    if hasattr(connection, "terminate"):
        connection.terminate()
        return
    if not connection.closed:
        with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as its_own:
            its_own.shutdown(socket.SHUT_RDWR)


def give_up_in_pipeline(connection: Any, record: Any) -> None:
    """Let nobody have a connection that psycopg has left in pipeline mode: its statements seem to return no rows.

    That becomes of a task that is cancelled as it begins an ``executemany``.
    """
    if connection is not None and connection.driver_connection.pgconn.pipeline_status:
        record.invalidate()


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
    if engine.driver == "psycopg" and not event.contains(engine.sync_engine, "checkin", give_up_in_pipeline):
        event.listen(engine.sync_engine, "checkin", give_up_in_pipeline)
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
