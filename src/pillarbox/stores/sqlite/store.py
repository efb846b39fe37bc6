"""What SQLite needs besides the shared statements: pragmas, immediate transactions, its errors."""

from __future__ import annotations

import sqlite3
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pillarbox.errors import ConfigurationError
from pillarbox.relational import DatabaseTraits, RelationalStore

BUSY_TIMEOUT_S = 30
PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {BUSY_TIMEOUT_S * 1000}")


def is_conflict(error: BaseException) -> bool:
    """Tell whether SQLite gave up waiting for its one writer."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


TRAITS = DatabaseTraits(name="SQLite", single_writer=True, conflicts=is_conflict)


class _InMemory(RelationalStore):
    """A store whose database lives as long as the store: a connection is kept open for that."""

    anchor: sqlite3.Connection

    async def close(self) -> None:
        """Close the engines and let the database go."""
        await super().close()
        self.anchor.close()


def sqlite_store(database: URL | AsyncEngine | Engine) -> RelationalStore:
    """Make the store; connects to nothing (an in-memory database begins to exist).

    An engine of the caller's lends its URL: the store opens the same file with its own settings.

    Raises:
        ConfigurationError: an engine on a database in memory was given, which no other engine can reach.
    """
    url = database if isinstance(database, URL) else database.url
    in_memory = url.database in (None, "", ":memory:")
    if not in_memory:
        return RelationalStore(
            _async_engine(url), sync_engine=lambda: _sync_engine(url), traits=TRAITS, owns_engine=True
        )
    if not isinstance(database, URL):
        raise ConfigurationError(
            "the engine's SQLite database lives in memory, where only that engine can reach it; "
            "give the box store='memory://' and use its engine, or a file"
        )
    shared = URL.create("sqlite", database=f"file:/pillarbox-{uuid4().hex}", query={"vfs": "memdb", "uri": "true"})
    store = _InMemory(_async_engine(shared), sync_engine=lambda: _sync_engine(shared), traits=TRAITS, owns_engine=True)
    store.anchor = sqlite3.connect(f"{shared.database}?vfs=memdb", uri=True, check_same_thread=False)
    return store


def _async_engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(url.set(drivername="sqlite+aiosqlite"))
    _prepare(engine.sync_engine)
    return engine


def _sync_engine(url: URL) -> Engine:
    engine = create_engine(url.set(drivername="sqlite+pysqlite"))
    _prepare(engine)
    return engine


def _prepare(engine: Engine) -> None:
    """Set the pragmas on each new connection, and take the write lock when a transaction begins.

    A transaction that reads first and writes later would fail at once instead of waiting for the lock.
    """

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver's own implicit BEGIN is off
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin_immediate(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
