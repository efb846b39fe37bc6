"""Programs on the connections and sessions of SQLAlchemy, whatever database they reach.

The asynchronous kinds run a whole program inside SQLAlchemy's own bridge, so one synchronous path serves all four.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, SelectBase
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from pillarbox.errors import ConfigurationError, InternalError, NoTransactionError, TransientError
from pillarbox.transaction.compiled import many_sets, one_set
from pillarbox.transaction.many_rows import (
    in_parts,
    many_rows_a_statement,
    refuse_what_no_packet_holds,
    sends_one_a_row,
)
from pillarbox.transaction.program import Execute, Program, Rows, drive_sync
from pillarbox.transaction.transaction import SyncTransaction, Transaction

T = TypeVar("T")

_DIALECT_NAMES = {"postgresql": "postgresql", "sqlite": "sqlite", "mysql": "mysql", "mariadb": "mysql"}


class ConnectionTransaction(SyncTransaction):
    """The transaction of a SQLAlchemy ``Connection``; begun by the first program if it was not."""

    def __init__(self, connection: Connection) -> None:
        """Join ``connection``, refusing it at once where no statement is needed to see that it must be."""
        _refuse_closed(connection)
        _refuse_autocommit_option(connection, connection)
        self._connection = connection
        self._dialect_name = dialect_name_of(connection)

    @property
    def dialect_name(self) -> str:
        """The database behind the engine."""
        return self._dialect_name

    def run(self, program: Program[T]) -> T:
        """Run ``program`` on the connection."""
        return run_on(self._connection, program)


class SessionTransaction(SyncTransaction):
    """The transaction of an ORM ``Session``: that of its connection, with nothing flushed."""

    def __init__(self, session: Session) -> None:
        """Join ``session``, refusing it at once where no statement is needed to see that it must be."""
        bind = _bind_of(session, session)
        _refuse_autocommit_option(session, bind)
        self._session = session
        self._dialect_name = dialect_name_of(bind)

    @property
    def dialect_name(self) -> str:
        """The database behind the session's engine."""
        return self._dialect_name

    def run(self, program: Program[T]) -> T:
        """Run ``program`` on the session's connection."""
        return run_on(self._session.connection(), program)


class AsyncConnectionTransaction(Transaction):
    """The transaction of an ``AsyncConnection``; begun by the first program if it was not."""

    def __init__(self, connection: AsyncConnection) -> None:
        """Join ``connection``, refusing it at once where no statement is needed to see that it must be."""
        inner = connection.sync_connection
        if inner is None:
            raise NoTransactionError(
                connection=_kind(connection), reason="it was never started", remedy="enter it with `async with`"
            )
        _refuse_closed(inner)
        _refuse_autocommit_option(connection, inner)
        self._connection = connection
        self._dialect_name = dialect_name_of(inner)

    @property
    def dialect_name(self) -> str:
        """The database behind the engine."""
        return self._dialect_name

    async def run(self, program: Program[T]) -> T:
        """Run ``program`` on the connection."""
        return await self._connection.run_sync(run_on, program)


class AsyncSessionTransaction(Transaction):
    """The transaction of an ``AsyncSession``: that of its connection, with nothing flushed."""

    def __init__(self, session: AsyncSession) -> None:
        """Join ``session``, refusing it at once where no statement is needed to see that it must be."""
        bind = _bind_of(session, session.sync_session)
        _refuse_autocommit_option(session, bind)
        self._session = session
        self._dialect_name = dialect_name_of(bind)

    @property
    def dialect_name(self) -> str:
        """The database behind the session's engine."""
        return self._dialect_name

    async def run(self, program: Program[T]) -> T:
        """Run ``program`` on the session's connection."""
        return await self._session.run_sync(_run_on_session, program)


def run_on(connection: Connection, program: Program[T]) -> T:
    """Run ``program`` on ``connection``, inside the transaction that is open there or in one begun now.

    Raises:
        NoTransactionError: The connection is closed, or commits each statement by itself; nothing was executed.
    """
    _refuse_closed(connection)
    _refuse_autocommit_option(connection, connection)
    if not connection.in_transaction():
        connection.begin()
    if connection.dialect.name == "sqlite":
        _begin_sqlite(connection)
    elif _driver_commits_by_itself(connection):
        raise _autocommit(connection)
    return drive_sync(program, partial(execute_on, connection))


def _run_on_session(session: Session, program: Program[T]) -> T:
    return run_on(session.connection(), program)


def execute_on(connection: Connection, wanted: Execute) -> Rows:
    """Execute one statement of a program on ``connection``.

    Raises:
        InternalError: it is to be executed many times and returns rows.
        InvalidMessageError: it holds a record that the server takes in no packet.
        TransientError: its connection hands out no rows; it is given up.
    """
    many = many_sets(wanted.parameters)
    if sends_one_a_row(connection, wanted.statement):
        refuse_what_no_packet_holds(connection, many or [one_set(wanted.parameters) or {}])
        if many is not None:
            with many_rows_a_statement(connection):
                for part in in_parts(many):
                    connection.execute(wanted.statement, part)
            return ()
    result = connection.execute(wanted.statement, wanted.parameters)
    if not result.returns_rows:
        if isinstance(wanted.statement, SelectBase) or getattr(
            wanted.statement, "returning_column_descriptions", False
        ):
            connection.invalidate()  # to take it for none found would lose what is waited for
            raise TransientError("a connection handed out no rows of a statement that returns some; it was given up")
        return ()
    if many is not None:
        raise InternalError(f"a statement that returns rows cannot be executed many times at once: {wanted.statement}")
    return result.all()


def _begin_sqlite(connection: Connection) -> None:
    """Begin where Python's driver would wait for the first write.

    Begun late, a savepoint released before that write would commit it (RELIABILITY P14); begun as a reader, the
    transaction could not wait for another writer (B17).
    """
    driver: Any = connection.connection.driver_connection
    if driver.in_transaction:
        return
    if driver.isolation_level is None or getattr(driver, "autocommit", None) is True:
        raise _autocommit(connection)
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _driver_commits_by_itself(connection: Connection) -> bool:
    driver: Any = connection.connection.dbapi_connection
    detect = getattr(connection.dialect, "detect_autocommit_setting", None)  # SQLAlchemy 2.0 before 2.0.43 has none
    if detect is not None:
        try:
            return bool(detect(driver))
        except (NotImplementedError, AttributeError):
            pass
    return getattr(driver, "autocommit", False) is True


def _refuse_closed(connection: Connection) -> None:
    if connection.closed:
        raise NoTransactionError(connection=_kind(connection), reason="it is closed")


def _refuse_autocommit_option(given: object, bind: Connection | Engine) -> None:
    level = str(bind.get_execution_options().get("isolation_level", ""))
    if level.upper() == "AUTOCOMMIT":
        raise _autocommit(given)


def _autocommit(given: object) -> NoTransactionError:
    return NoTransactionError(
        connection=_kind(given),
        reason="it commits each statement by itself (AUTOCOMMIT)",
        remedy="take it from an engine without isolation_level='AUTOCOMMIT'",
    )


def _bind_of(given: object, session: Session) -> Connection | Engine:
    try:
        return session.get_bind()
    except UnboundExecutionError as error:
        raise ConfigurationError(
            f"{_kind(given)} does not say which database to use; give it bind=, or pass the connection "
            "that holds your data: session.connection(bind_arguments=...)"
        ) from error


def dialect_name_of(bind: Connection | Engine) -> str:
    """Return which database is behind ``bind``: ``postgresql``, ``sqlite`` or ``mysql`` (MariaDB included)."""
    name = _DIALECT_NAMES.get(bind.dialect.name)
    if name is None:
        raise ConfigurationError(
            f"{bind.dialect.name} is not supported; Pillarbox works with PostgreSQL, SQLite, MySQL and MariaDB"
        )
    return name


def _kind(given: object) -> str:
    return f"SQLAlchemy {type(given).__name__}"
