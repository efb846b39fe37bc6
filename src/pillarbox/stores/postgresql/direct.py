"""Statements straight through asyncpg and psycopg: what relays and consumers do hundreds of times a second.

By asyncpg one that commits by itself needs neither checkout nor transaction.
"""

from __future__ import annotations

from operator import attrgetter, methodcaller
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pillarbox.relational import RelationalStore, SingleStatements
from pillarbox.relational.direct import DirectSyncTransaction, DirectTransaction, Driver
from pillarbox.relational.store import OwnTransaction
from pillarbox.transaction import Execute, Rows
from pillarbox.transaction.compiled import asyncpg_compiler, one_set, psycopg_compiler
from pillarbox.transaction.drivers import by_asyncpg, by_psycopg, by_sync_psycopg


def _is_begun_by_asyncpg(connection: Any) -> bool:
    return not connection.is_closed() and bool(connection.is_in_transaction())


def _is_begun_by_psycopg(connection: Any) -> bool:
    """Tell whether the next statement is in a transaction: psycopg begins it with the first one.

    The engine that a caller lends for threads may speak through another driver.
    """
    return hasattr(connection, "pgconn") and not connection.closed and not connection.autocommit


class AsyncpgTransaction(DirectTransaction):
    """A transaction by asyncpg."""

    driver = Driver(
        compiler=asyncpg_compiler,
        call=by_asyncpg,
        is_begun=_is_begun_by_asyncpg,
        is_closed=methodcaller("is_closed"),
    )


class PsycopgTransaction(DirectTransaction):
    """A transaction by psycopg."""

    driver = Driver(
        compiler=psycopg_compiler,
        call=by_psycopg,
        is_begun=_is_begun_by_psycopg,
        is_closed=attrgetter("closed"),
    )


class SyncPsycopgTransaction(DirectSyncTransaction):
    """A transaction by psycopg in a thread."""

    driver = Driver(
        compiler=psycopg_compiler,
        call=by_sync_psycopg,
        is_begun=_is_begun_by_psycopg,
        is_closed=attrgetter("closed"),
    )


class PostgresStore(RelationalStore):
    """The store of a box on PostgreSQL by psycopg."""

    transaction_type: type[OwnTransaction] = PsycopgTransaction
    sync_transaction_type = SyncPsycopgTransaction


class AsyncpgStore(PostgresStore):
    """By asyncpg; its transactions in threads go by psycopg all the same."""

    transaction_type = AsyncpgTransaction


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
