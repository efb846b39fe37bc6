"""Statements straight through asyncpg and psycopg: what relays and consumers do hundreds of times a second."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from operator import attrgetter, methodcaller
from typing import Any, TypeVar

from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncEngine

from pillarbox.relational import RelationalStore
from pillarbox.relational.direct import DirectSyncTransaction, DirectTransaction, Driver
from pillarbox.relational.store import OwnTransaction, single
from pillarbox.stores.postgresql.brief import BriefTransaction, Lent, Spare
from pillarbox.transaction import Program, Transaction, drive
from pillarbox.transaction.compiled import asyncpg_compiler, psycopg_compiler
from pillarbox.transaction.drivers import by_asyncpg, by_psycopg, by_sync_psycopg

T = TypeVar("T")


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

    async def run(self, program: Program[T]) -> T:
        """Run ``program`` on the driver's connection, the first one of a transaction too."""
        await self._begin_below()
        return await super().run(program)

    async def _begin_below(self) -> None:
        """Begin what SQLAlchemy would begin with its first statement, as it would."""
        inner = self.connection.sync_connection
        if inner is None or inner.closed or inner.invalidated or not inner.in_transaction():
            return
        pooled: Any = inner.connection.dbapi_connection
        start = getattr(pooled, "_start_transaction", None)
        if start is None or pooled.driver_connection.is_closed() or pooled.driver_connection.is_in_transaction():
            return
        async with self._patience.for_answer(self.connection):
            try:
                await start()
            except Exception as error:
                raise await self._wrapped(pooled.driver_connection, "BEGIN", error) from error


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
    """By asyncpg; its transactions in threads go by psycopg all the same.

    What nobody else's code has a part in needs nothing of SQLAlchemy but a connection of its pool.
    """

    transaction_type = AsyncpgTransaction

    def __init__(self, engine: AsyncEngine, **options: Any) -> None:
        """Use ``engine``, and keep some of its connections at hand while the store is open."""
        super().__init__(engine, **options)
        self._spare = Spare(engine)

    @asynccontextmanager
    async def begin_briefly(self) -> AsyncGenerator[Transaction]:
        """Begin a transaction in which nobody else's code runs."""
        lent = await self._borrow()
        brief = BriefTransaction(lent, self._patience)
        try:
            await brief.begin(str(self._brief_limits))
            yield brief
            await brief.commit()
        except Exception:
            await brief.roll_back()
            raise
        except BaseException:
            await lent.give_up()
            raise
        finally:
            await self._spare.put_back(lent)

    async def run_single(self, program: Program[T]) -> T:
        """Run a program of one statement, which commits by itself: it needs no transaction."""
        lent = await self._borrow()
        try:
            async with self._patience.for_answer(lent.connection):
                return await drive(single(program), lent.execute)
        except (StatementError, UnicodeEncodeError) as error:
            self._raise(error)
        except BaseException as error:
            if not isinstance(error, Exception):  # cancelled in mid-statement
                await lent.give_up()
            raise
        finally:
            await self._spare.put_back(lent)

    async def _borrow(self) -> Lent:
        if (lent := await self._spare.at_hand()) is not None:
            return lent
        async with self._connecting():
            return await self._spare.borrow()

    async def let_go(self) -> None:
        """Close the connections, those at hand first."""
        await self._spare.close()
        await super().let_go()
