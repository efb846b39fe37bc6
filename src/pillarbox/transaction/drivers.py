"""Programs on the connections of database drivers, used without SQLAlchemy's engine.

The drivers are never imported: what is called here is looked up on the connection that the caller already holds.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any, TypeVar

from pillarbox.errors import ConfigurationError, NoTransactionError
from pillarbox.transaction.compiled import (
    CompiledStatement,
    asyncpg_compiler,
    many_sets,
    one_set,
    psycopg_compiler,
    sqlite_compiler,
)
from pillarbox.transaction.program import Execute, Parameters, Program, Rows, drive, drive_sync
from pillarbox.transaction.transaction import SyncTransaction, Transaction

T = TypeVar("T")

_IDLE = 0  # psycopg.pq.TransactionStatus.IDLE


class AsyncpgTransaction(Transaction):
    """The transaction of an asyncpg connection, or of one lent by its pool."""

    def __init__(self, connection: Any) -> None:
        """Join ``connection``, which must be inside a transaction."""
        self._connection = connection
        self._require_transaction()

    @property
    def dialect_name(self) -> str:
        """PostgreSQL."""
        return "postgresql"

    async def run(self, program: Program[T]) -> T:
        """Run ``program`` on the connection."""
        self._require_transaction()
        return await drive(program, self._execute)

    async def _execute(self, wanted: Execute) -> Rows:
        return await by_asyncpg(self._connection, asyncpg_compiler().compile(wanted), wanted.parameters)

    def _require_transaction(self) -> None:
        try:
            closed, begun = self._connection.is_closed(), self._connection.is_in_transaction()
        except Exception as error:  # asyncpg.InterfaceError
            raise NoTransactionError(connection="asyncpg Connection", reason="it went back to its pool") from error
        if closed:
            raise NoTransactionError(connection="asyncpg Connection", reason="it is closed")
        if not begun:
            raise NoTransactionError(
                connection="asyncpg Connection",
                reason="asyncpg commits each statement that stands outside a transaction",
                remedy="publish inside `async with connection.transaction():`",
            )


class PsycopgTransaction(Transaction):
    """The transaction of a psycopg ``AsyncConnection``; psycopg begins it with the first statement."""

    def __init__(self, connection: Any) -> None:
        """Join ``connection``, unless it commits each statement by itself."""
        self._connection = connection
        _require_psycopg_transaction(connection, "psycopg AsyncConnection")

    @property
    def dialect_name(self) -> str:
        """PostgreSQL."""
        return "postgresql"

    async def run(self, program: Program[T]) -> T:
        """Run ``program`` on the connection."""
        _require_psycopg_transaction(self._connection, "psycopg AsyncConnection")
        return await drive(program, self._execute)

    async def _execute(self, wanted: Execute) -> Rows:
        return await by_psycopg(self._connection, psycopg_compiler().compile(wanted), wanted.parameters)


class SyncPsycopgTransaction(SyncTransaction):
    """The transaction of a psycopg ``Connection``; psycopg begins it with the first statement."""

    def __init__(self, connection: Any) -> None:
        """Join ``connection``, unless it commits each statement by itself."""
        self._connection = connection
        _require_psycopg_transaction(connection, "psycopg Connection")

    @property
    def dialect_name(self) -> str:
        """PostgreSQL."""
        return "postgresql"

    def run(self, program: Program[T]) -> T:
        """Run ``program`` on the connection."""
        _require_psycopg_transaction(self._connection, "psycopg Connection")
        return drive_sync(program, self._execute)

    def _execute(self, wanted: Execute) -> Rows:
        return by_sync_psycopg(self._connection, psycopg_compiler().compile(wanted), wanted.parameters)


class AiosqliteTransaction(Transaction):
    """The transaction of an aiosqlite connection."""

    def __init__(self, connection: Any) -> None:
        """Join ``connection``, which must be inside a transaction."""
        self._connection = connection
        _require_sqlite_transaction(connection, "aiosqlite Connection")

    @property
    def dialect_name(self) -> str:
        """SQLite."""
        return "sqlite"

    async def run(self, program: Program[T]) -> T:
        """Run ``program`` on the connection."""
        _require_sqlite_transaction(self._connection, "aiosqlite Connection")
        return await drive(program, self._execute)

    async def _execute(self, wanted: Execute) -> Rows:
        return await by_aiosqlite(self._connection, sqlite_compiler().compile(wanted), wanted.parameters)


class SqliteTransaction(SyncTransaction):
    """The transaction of a sqlite3 connection."""

    def __init__(self, connection: Any) -> None:
        """Join ``connection``, which must be inside a transaction."""
        self._connection = connection
        _require_sqlite_transaction(connection, "sqlite3 Connection")

    @property
    def dialect_name(self) -> str:
        """SQLite."""
        return "sqlite"

    def run(self, program: Program[T]) -> T:
        """Run ``program`` on the connection."""
        _require_sqlite_transaction(self._connection, "sqlite3 Connection")
        return drive_sync(program, self._execute)

    def _execute(self, wanted: Execute) -> Rows:
        return by_sqlite3(self._connection, sqlite_compiler().compile(wanted), wanted.parameters)


class DjangoTransaction(SyncTransaction):
    """The ``atomic`` block of a Django connection, joined on the driver's connection below it."""

    def __init__(self, connection: Any) -> None:
        """Join ``connection``, which must be inside ``atomic``."""
        self._connection = connection
        self._dialect_name = self._driver_transaction().dialect_name

    @property
    def dialect_name(self) -> str:
        """The database behind the alias."""
        return self._dialect_name

    def run(self, program: Program[T]) -> T:
        """Run ``program`` on the driver's connection."""
        return self._driver_transaction().run(program)

    def _driver_transaction(self) -> SyncTransaction:
        kind = f"Django connection {self._connection.alias!r}"
        if not self._connection.in_atomic_block:
            raise NoTransactionError(
                connection=kind,
                reason="it is outside atomic(), where Django commits each statement",
                remedy="publish inside `with transaction.atomic():`",
            )
        driver = self._connection.connection
        if driver is None:
            raise NoTransactionError(connection=kind, reason="it is closed")
        if self._connection.vendor == "sqlite":
            return SqliteTransaction(driver)
        if hasattr(driver, "pgconn"):
            return SyncPsycopgTransaction(driver)
        raise ConfigurationError(
            f"{kind} uses {type(driver).__module__}; Pillarbox joins Django's SQLite, and PostgreSQL through psycopg 3"
        )


async def by_asyncpg(connection: Any, compiled: CompiledStatement, parameters: Parameters) -> Rows:
    """Execute one statement on a connection of asyncpg."""
    many = many_sets(parameters)
    if many is not None:
        await connection.executemany(compiled.sql, [compiled.positional(values) for values in many])
        return ()
    return compiled.rows(await connection.fetch(compiled.sql, *compiled.positional(one_set(parameters))))


async def by_psycopg(connection: Any, compiled: CompiledStatement, parameters: Parameters) -> Rows:
    """Execute one statement on an asynchronous connection of psycopg."""
    many = many_sets(parameters)
    async with sys.modules["psycopg"].AsyncCursor(connection, row_factory=_tuples) as cursor:
        async with _answered(connection):
            if many is None:
                await cursor.execute(compiled.sql, compiled.named(one_set(parameters)))
            else:
                await cursor.executemany(compiled.sql, [compiled.named(values) for values in many])
        return () if cursor.description is None else compiled.rows(await cursor.fetchall())


def by_sync_psycopg(connection: Any, compiled: CompiledStatement, parameters: Parameters) -> Rows:
    """Execute one statement on a connection of psycopg."""
    many = many_sets(parameters)
    with sys.modules["psycopg"].Cursor(connection, row_factory=_tuples) as cursor:
        with _answered(connection):
            if many is None:
                cursor.execute(compiled.sql, compiled.named(one_set(parameters)))
            else:
                cursor.executemany(compiled.sql, [compiled.named(values) for values in many])
        return () if cursor.description is None else compiled.rows(cursor.fetchall())


async def by_aiosqlite(connection: Any, compiled: CompiledStatement, parameters: Parameters) -> Rows:
    """Execute one statement on a connection of aiosqlite."""
    many = many_sets(parameters)
    if many is None and connection.row_factory is None:  # one visit to the driver's thread instead of four
        values = compiled.positional(one_set(parameters))
        return compiled.rows(await connection.execute_fetchall(compiled.sql, values))
    async with connection.cursor() as cursor:
        cursor.row_factory = None
        if many is not None:
            await cursor.executemany(compiled.sql, [compiled.positional(values) for values in many])
            return ()
        await cursor.execute(compiled.sql, compiled.positional(one_set(parameters)))
        return compiled.rows(await cursor.fetchall())


def by_sqlite3(connection: Any, compiled: CompiledStatement, parameters: Parameters) -> Rows:
    """Execute one statement on a connection of sqlite3."""
    many = many_sets(parameters)
    cursor = connection.cursor()
    cursor.row_factory = None
    try:
        if many is not None:
            cursor.executemany(compiled.sql, [compiled.positional(values) for values in many])
            return ()
        cursor.execute(compiled.sql, compiled.positional(one_set(parameters)))
        return compiled.rows(cursor.fetchall())
    finally:
        cursor.close()


def _tuples(_cursor: object) -> type[tuple[Any, ...]]:
    """Read rows by position, whatever the caller's own row factory makes of them."""
    return tuple


def _answered(connection: Any) -> Any:
    """Return a block at whose end psycopg has the answer, though the caller be in pipeline mode."""
    return connection.pipeline() if connection.pgconn.pipeline_status else nullcontext()


def _require_psycopg_transaction(connection: Any, kind: str) -> None:
    if connection.closed:
        raise NoTransactionError(connection=kind, reason="it is closed")
    if not connection.autocommit or connection.info.transaction_status != _IDLE:
        return
    # inside a pipeline the BEGIN of connection.transaction() may not have been answered yet
    if not getattr(connection, "_num_transactions", 0):
        raise NoTransactionError(
            connection=kind,
            reason="it is in autocommit and outside a transaction",
            remedy="publish inside `with connection.transaction():`, or connect without autocommit",
        )


def _require_sqlite_transaction(connection: Any, kind: str) -> None:
    try:
        begun = connection.in_transaction
    except Exception as error:  # sqlite3.ProgrammingError, or ValueError from aiosqlite
        raise NoTransactionError(connection=kind, reason="it is closed") from error
    if not begun:
        raise NoTransactionError(
            connection=kind,
            reason="no transaction is open",
            remedy='execute "BEGIN IMMEDIATE" first, and publish before committing',
        )
