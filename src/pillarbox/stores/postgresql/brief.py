"""Connections of asyncpg that are borrowed of the engine's pool, for what needs nothing else of SQLAlchemy.

Its begin, its statements and its commit cost a client several times what they cost the driver.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from pillarbox.errors import ConflictError, StoreUnavailableError
from pillarbox.relational.silence import Patience
from pillarbox.transaction import Execute, Program, Rows, Transaction, drive
from pillarbox.transaction.compiled import asyncpg_compiler
from pillarbox.transaction.drivers import by_asyncpg

T = TypeVar("T")
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""Whatever the database or the caller's engine begins with: our statements count on seeing what was committed."""
COMMIT = "COMMIT"


class Lent:
    """A connection of the pool, and the driver's beneath it; each statement commits by itself until one begins."""

    def __init__(self, connection: AsyncConnection, driver: Any) -> None:
        """Speak through ``driver``."""
        self.connection = connection
        self._driver = driver

    @property
    def is_sound(self) -> bool:
        """Whether it may be used again."""
        return not self.connection.invalidated and not self._driver.is_closed()

    async def execute(self, wanted: Execute) -> Rows:
        """Execute one statement.

        Raises:
            DBAPIError: the database refused it, or is away.
        """
        compiled = asyncpg_compiler().compile(wanted)
        try:
            return await by_asyncpg(self._driver, compiled, wanted.parameters)
        except Exception as error:
            raise self._wrapped(compiled.sql, error) from error

    async def say(self, words: str) -> str:
        """Execute words without parameters, several statements maybe, and return what the server says of the last.

        Raises:
            DBAPIError: as with ``execute``.
        """
        try:
            answer: str = await self._driver.execute(words)
        except Exception as error:
            raise self._wrapped(words, error) from error
        return answer

    async def give_up(self) -> None:
        """Close the connection: its state is not known, or it is broken."""
        if not self.connection.invalidated:
            await self.connection.invalidate()

    def _wrapped(self, sql: str, error: Exception) -> DBAPIError:
        return DBAPIError(sql, None, error, connection_invalidated=self._driver.is_closed())


class Spare:
    """Borrows connections, and keeps a few at hand: the pool's own lending costs more than a statement."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Borrow of ``engine``, which speaks through asyncpg; the better half of its pool is always left to others."""
        self._engine = engine
        self._kept = engine.pool.size() // 2 if isinstance(engine.pool, QueuePool) else 0
        self._idle: list[Lent] = []

    async def at_hand(self) -> Lent | None:
        """Return a connection that is kept, if there is a sound one."""
        while self._idle:
            lent = self._idle.pop()
            if lent.is_sound:
                return lent
            await self.put_back(lent)
        return None

    async def borrow(self) -> Lent:
        """Return a connection of the pool.

        Raises:
            DBAPIError, OSError, TimeoutError: of SQLAlchemy's pool: there is none to be had.
        """
        connection = await self._engine.connect()
        return Lent(connection, (await connection.get_raw_connection()).driver_connection)

    async def put_back(self, lent: Lent) -> None:
        """Keep a connection at hand, or give it back to its pool; no transaction is open on it."""
        if lent.is_sound and len(self._idle) < self._kept:
            self._idle.append(lent)
            return
        if not lent.is_sound:
            await lent.give_up()
        await lent.connection.close()

    async def close(self) -> None:
        """Give the connections back to their pool; they are borrowed again when they are needed."""
        while self._idle:
            await self._idle.pop().connection.close()


class BriefTransaction(Transaction):
    """A transaction of which SQLAlchemy knows nothing."""

    def __init__(self, lent: Lent, patience: Patience) -> None:
        """Use ``lent``, which nobody else uses meanwhile."""
        self._lent = lent
        self._patience = patience

    @property
    def dialect_name(self) -> str:
        """PostgreSQL."""
        return "postgresql"

    async def begin(self, limits: str) -> None:
        """Begin with ``limits``, in one round trip."""
        await self._say(f"{BEGIN}; {limits}")

    async def run(self, program: Program[T]) -> T:
        """Run ``program`` on the connection."""
        async with self._patience.for_answer(self._lent.connection):
            return await drive(program, self._lent.execute)

    async def commit(self) -> None:
        """Commit.

        Raises:
            ConflictError: a program swallowed an error that had ended the transaction; nothing was committed.
        """
        if await self._say(COMMIT) != COMMIT:
            raise ConflictError("PostgreSQL had rolled the transaction back at an error that nobody told of")

    async def roll_back(self) -> None:
        """Roll back, or give the connection up, at which the server does."""
        is_over = False
        try:
            if self._lent.is_sound:
                with suppress(DBAPIError, StoreUnavailableError):
                    await self._say("ROLLBACK")
                    is_over = True
        finally:
            if not is_over:
                await self._lent.give_up()

    async def _say(self, words: str) -> str:
        async with self._patience.for_answer(self._lent.connection):
            return await self._lent.say(words)
