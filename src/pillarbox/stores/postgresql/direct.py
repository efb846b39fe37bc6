"""Statements straight through asyncpg: what relays and consumers do hundreds of times a second.

Of what SQLAlchemy does around a statement nothing is needed: no result object, no bridge between the colours, and for
one that commits by itself neither checkout nor transaction.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pillarbox.relational import RelationalStore, SingleStatements
from pillarbox.relational.store import OwnTransaction
from pillarbox.transaction import Execute, Program, Rows, drive
from pillarbox.transaction.compiled import asyncpg_compiler, many_sets, one_set
from pillarbox.transaction.sqlalchemy_ import execute_on

T = TypeVar("T")


class DirectTransaction(OwnTransaction):
    """A transaction that SQLAlchemy has begun, for handlers to write in; programs go past it."""

    async def run(self, program: Program[T]) -> T:
        driver = self._driver()
        if driver is None:  # a handler has ended the transaction, or lost its connection
            return await super().run(program)
        async with self._patience.for_answer(self.connection):
            return await drive(program, partial(self._execute, driver))

    def _driver(self) -> Any:
        inner = self.connection.sync_connection
        if inner is None or inner.closed or inner.invalidated or not inner.in_transaction():
            return None
        driver: Any = inner.connection.driver_connection
        return driver if not driver.is_closed() and driver.is_in_transaction() else None

    async def _execute(self, driver: Any, wanted: Execute) -> Rows:
        compiled = asyncpg_compiler().find(wanted)
        if compiled is None:
            return await self.connection.run_sync(execute_on, wanted)
        many = many_sets(wanted.parameters)
        try:
            if many is not None:
                await driver.executemany(compiled.sql, [compiled.positional(values) for values in many])
                return ()
            return compiled.rows(await driver.fetch(compiled.sql, *compiled.positional(one_set(wanted.parameters))))
        except Exception as error:
            is_closed = driver.is_closed()
            if is_closed:
                await self.connection.invalidate()
            raise DBAPIError(compiled.sql, None, error, connection_invalidated=is_closed) from error


class DirectStore(RelationalStore):
    """The store of a box on PostgreSQL by asyncpg."""

    transaction_type = DirectTransaction


class DirectStatements(SingleStatements):
    """Executes statements that commit by themselves, as many at once as are asked for.

    The driver's connections are lent by the engine's pool, and kept while the store is open.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Borrow connections of ``engine``, which speaks through asyncpg."""
        self._engine = engine
        self._idle: list[tuple[AsyncConnection, Any]] = []

    async def execute(self, wanted: Execute) -> Rows:
        """Execute one statement, which commits by itself; a connection that failed is not used again."""
        compiled = asyncpg_compiler().compile(wanted)
        lent, driver = self._idle.pop() if self._idle else await self._borrow()
        try:
            rows = await driver.fetch(compiled.sql, *compiled.positional(one_set(wanted.parameters)))
        except BaseException as error:
            await lent.invalidate()
            if not isinstance(error, Exception):
                raise
            raise DBAPIError(compiled.sql, None, error, connection_invalidated=driver.is_closed()) from error
        self._idle.append((lent, driver))
        return compiled.rows(rows)

    async def close(self) -> None:
        """Give the connections back to their pool."""
        while self._idle:
            lent, _ = self._idle.pop()
            await lent.close()

    async def _borrow(self) -> tuple[AsyncConnection, Any]:
        try:
            lent = await self._engine.connect()
        except (OSError, SQLAlchemyError) as error:
            raise DBAPIError("connect", None, error, connection_invalidated=True) from error
        return lent, (await lent.get_raw_connection()).driver_connection
