"""Single statements straight through asyncpg: what a relay does hundreds of times a second, at a third of the cost.

Each commits by itself, so nothing of what SQLAlchemy does around a statement is needed: no checkout, no transaction, no
result object. The connections are lent by the engine's pool and kept while the store is open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from pillarbox.relational import SingleStatements
from pillarbox.transaction import Execute, Rows
from pillarbox.transaction.compiled import asyncpg_compiler


class DirectStatements(SingleStatements):
    """Executes statements on the driver's own connections, as many at once as are asked for."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Borrow connections of ``engine``, which speaks through asyncpg."""
        self._engine = engine
        self._idle: list[tuple[AsyncConnection, Any]] = []

    async def execute(self, wanted: Execute) -> Rows:
        """Execute one statement, which commits by itself; a connection that failed is not used again."""
        compiled = asyncpg_compiler().compile(wanted)
        lent, driver = self._idle.pop() if self._idle else await self._borrow()
        parameters = wanted.parameters if isinstance(wanted.parameters, Mapping) else None
        try:
            rows = await driver.fetch(compiled.sql, *compiled.positional(parameters))
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
