"""Transactions that SQLAlchemy has begun, for handlers to write in, whose programs go past it, straight to the driver.

Of what SQLAlchemy does around a statement nothing is needed: no result object and no bridge between the colours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from pillarbox.relational.store import OwnSyncTransaction, OwnTransaction
from pillarbox.transaction import Execute, Program, Rows, drive, drive_sync
from pillarbox.transaction.compiled import CompiledStatement, StatementCompiler
from pillarbox.transaction.program import Parameters

T = TypeVar("T")
Answer = TypeVar("Answer", Rows, Awaitable[Rows])
Call: TypeAlias = Callable[[Any, CompiledStatement, Parameters], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver(Generic[Answer]):
    """How a driver is used.

    Attributes:
        compiler: knows the driver's placeholders.
        call: executes one statement on the driver's connection.
        is_begun: tells whether the driver's connection is open, and its next statement in a transaction.
        is_closed: tells whether the driver has given the connection up.
    """

    compiler: Callable[[], StatementCompiler]
    call: Call[Answer]
    is_begun: Callable[[Any], bool]
    is_closed: Callable[[Any], bool]


class DirectTransaction(OwnTransaction):
    """For an asynchronous driver."""

    driver: ClassVar[Driver[Awaitable[Rows]]]

    async def run(self, program: Program[T]) -> T:
        """Run ``program`` on the driver's connection."""
        connection = _below(self.connection.sync_connection)
        if connection is None or not self.driver.is_begun(connection):  # a handler has ended it, or lost its connection
            return await super().run(program)
        async with self._patience.for_answer(self.connection):
            return await drive(program, partial(self._execute, connection))

    async def _execute(self, connection: Any, wanted: Execute) -> Rows:
        compiled = self.driver.compiler().compile(wanted)
        try:
            return await self.driver.call(connection, compiled, wanted.parameters)
        except Exception as error:
            raise await self._wrapped(connection, compiled.sql, error) from error

    async def _wrapped(self, connection: Any, sql: str, error: Exception) -> DBAPIError:
        """Return the error as SQLAlchemy would raise it; a connection that the driver has given up is so here too."""
        is_closed = self.driver.is_closed(connection)
        if is_closed:
            await self.connection.invalidate()
        return DBAPIError(sql, None, error, connection_invalidated=is_closed)


class DirectSyncTransaction(OwnSyncTransaction):
    """For a driver that is called in a thread."""

    driver: ClassVar[Driver[Rows]]

    def run(self, program: Program[T]) -> T:
        """Run ``program`` on the driver's connection."""
        connection = _below(self.connection)
        if connection is None or not self.driver.is_begun(connection):
            return super().run(program)
        return drive_sync(program, partial(self._execute, connection))

    def _execute(self, connection: Any, wanted: Execute) -> Rows:
        compiled = self.driver.compiler().compile(wanted)
        try:
            return self.driver.call(connection, compiled, wanted.parameters)
        except Exception as error:
            is_closed = self.driver.is_closed(connection)
            if is_closed:
                self.connection.invalidate()
            raise DBAPIError(compiled.sql, None, error, connection_invalidated=is_closed) from error


def _below(connection: Connection | None) -> Any:
    """Return the driver's connection, as long as SQLAlchemy's is in a transaction."""
    if connection is None or connection.closed or connection.invalidated or not connection.in_transaction():
        return None
    return connection.connection.driver_connection
