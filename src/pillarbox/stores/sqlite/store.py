"""What SQLite needs besides the shared statements: pragmas, immediate transactions, its errors."""

from __future__ import annotations

import sqlite3
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiosqlite
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pillarbox.errors import ConfigurationError
from pillarbox.relational import DatabaseTraits, RelationalStore
from pillarbox.relay import RelayKind
from pillarbox.stores.sqlite.direct import SqliteStore
from pillarbox.stores.sqlite.sequence import SqliteSequenceReader
from pillarbox.transaction.threads import in_thread

BUSY_TIMEOUT_S = 30
PRAGMAS = (f"busy_timeout = {BUSY_TIMEOUT_S * 1000}", "synchronous = FULL")
WAL_WITHIN_S, BETWEEN_TRIES_S = 5.0, 0.005


def is_conflict(error: BaseException) -> bool:
    """Tell whether SQLite gave up waiting for its one writer."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


Now = Callable[[], datetime]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_JULIAN_DAY = 2440587.5

TRAITS = DatabaseTraits(
    name="SQLite",
    single_writer=True,
    conflicts=is_conflict,
    sequence=SqliteSequenceReader(),
    refuses={RelayKind.LOG: "it has no log that could be read; choose 'polling' or 'sequence'"},
)


class _InMemory(SqliteStore):
    """A store whose database lives as long as the store: a connection is kept open for that."""

    anchor: sqlite3.Connection

    async def close(self) -> None:
        """Close the engines and let the database go."""
        await super().close()
        self.anchor.close()


def sqlite_store(database: URL | AsyncEngine | Engine, *, now: Now | None = None) -> RelationalStore:
    """Make the store; connects to nothing (an in-memory database begins to exist).

    An engine of the caller's lends its URL: the store opens the same file with its own settings.

    Args:
        database: where it is.
        now: what the database's clock shows instead of the machine's time; for tests.

    Raises:
        ConfigurationError: an engine on a database in memory was given, which no other engine can reach; or the file
            stands where a URL names a host, as in sqlite://shop.db.
    """
    url = database if isinstance(database, URL) else database.url
    if url.host:
        raise ConfigurationError(
            "an SQLite URL names no host: write sqlite:///FILE with three slashes, four where the path is absolute"
        )
    in_memory = url.database in (None, "", ":memory:")
    if not in_memory:
        return SqliteStore(
            _async_engine(url, now), sync_engine=lambda: _sync_engine(url, now), traits=TRAITS, owns_engine=True
        )
    if not isinstance(database, URL):
        raise ConfigurationError(
            "the engine's SQLite database lives in memory, where only that engine can reach it; "
            "give the box store='memory://' and use its engine, or a file"
        )
    shared = URL.create("sqlite", database=f"file:/pillarbox-{uuid4().hex}", query={"vfs": "memdb", "uri": "true"})
    store = _InMemory(
        _async_engine(shared, now), sync_engine=lambda: _sync_engine(shared, now), traits=TRAITS, owns_engine=True
    )
    store.anchor = sqlite3.connect(f"{shared.database}?vfs=memdb", uri=True, check_same_thread=False)
    weakref.finalize(store, store.anchor.close)
    return store


def _async_engine(url: URL, now: Now | None) -> AsyncEngine:
    engine = create_async_engine(url.set(drivername="sqlite+aiosqlite"))
    _prepare(engine.sync_engine, now)

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect_by_us(_dialect: object, _record: object, _given: object, options: dict[str, Any]) -> None:
        options["async_creator_fn"] = _connect

    return engine


async def _connect(*given: Any, **options: Any) -> aiosqlite.Connection:
    """Open a file; of one that cannot be opened the thread ends first, since it reports to the loop once more."""
    connection = aiosqlite.connect(*given, **options)
    thread: Any = getattr(connection, "_thread", connection)  # before aiosqlite 0.22 it was a thread itself
    thread.daemon = True
    try:
        return await connection
    except Exception:
        await in_thread(thread.join)
        raise


def _sync_engine(url: URL, now: Now | None) -> Engine:
    engine = create_engine(url.set(drivername="sqlite+pysqlite"))
    _prepare(engine, now)
    return engine


def _prepare(engine: Engine, now: Now | None) -> None:
    """Set the pragmas and the clock on each new connection; take the write lock when a transaction begins.

    It is let go at once when the connection is given up. A transaction that reads first and writes later would fail
    instead of waiting for the lock.
    """

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver's own implicit BEGIN is off
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        _use_wal(cursor)
        cursor.close()
        if now is not None:
            connection.create_function("julianday", -1, _julianday_by(now))

    @event.listens_for(engine, "begin")
    def begin_immediate(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(engine, "invalidate")
    def roll_back(connection: Any, *_: object) -> None:
        connection.rollback()  # SQLite keeps the lock of a closed connection while a statement of it is in memory


def _use_wal(cursor: Any) -> None:
    """Have the file written ahead in a log, which it remembers.

    SQLite does not wait for others that open a new file, and so change this, at the same moment.
    """
    deadline = time.monotonic() + WAL_WITHIN_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_conflict(error) or time.monotonic() >= deadline:
                raise
            time.sleep(BETWEEN_TRIES_S)  # noqa: TID251  # within the driver's connecting, where there is no clock


def _julianday_by(now: Now) -> Callable[..., float | None]:
    """Return SQLite's ``julianday`` with ``now`` as the time that it shows."""
    builtin = sqlite3.connect(":memory:", check_same_thread=False)

    def julianday(*arguments: str | float | None) -> float | None:
        if arguments in ((), ("now",)):
            return EPOCH_JULIAN_DAY + (now() - EPOCH) / timedelta(days=1)
        marks = ", ".join("?" for _ in arguments)
        found: float | None = builtin.execute(f"SELECT julianday({marks})", arguments).fetchone()[0]
        return found

    weakref.finalize(julianday, builtin.close)
    return julianday
