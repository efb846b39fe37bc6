"""The doctor of PostgreSQL: reads facts on connections of its own, and has them judged."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from pillarbox.control.diagnosis import Diagnosable, DiagnosisLimits, Finding, Severity
from pillarbox.errors import StoreUnavailableError
from pillarbox.relational import RelationalStore
from pillarbox.stores.postgresql.facts import LEAST_VERSION, read_facts
from pillarbox.stores.postgresql.judgement import judge_postgresql
from pillarbox.transaction.sqlalchemy_ import AsyncConnectionTransaction

BACKEND = text("SELECT pg_backend_pid()")
VERSION = text("SELECT CAST(current_setting('server_version_num') AS int)")
PROBES = 3


class PostgresDiagnosis(Diagnosable):
    """Looks at the database of a store, through the same address as the store."""

    def __init__(self, store: RelationalStore, limits: DiagnosisLimits) -> None:
        """Judge by ``limits``."""
        self._store = store
        self._limits = limits

    async def diagnose(self, *, deep: bool) -> Sequence[Finding]:
        try:
            async with _engine_without_sessions(self._store) as engine:
                async with engine.connect() as connection:
                    version: int = (await connection.execute(VERSION)).scalar_one()
                if version < LEAST_VERSION:
                    return [_too_old(version)]  # its catalogs lack what the rest asks for
                pooled = await _is_pooled(engine)
                async with engine.connect() as connection, connection.begin():
                    facts = await AsyncConnectionTransaction(connection).run(read_facts(pooled=pooled))
        except OSError as error:
            raise StoreUnavailableError(store=self._store.name, reason=str(error)) from error
        except DBAPIError as error:
            translated = self._store.translate(error)
            if translated is error:
                raise
            raise translated from error
        return judge_postgresql(facts, self._limits)


@asynccontextmanager
async def _engine_without_sessions(store: RelationalStore) -> AsyncGenerator[AsyncEngine]:
    """Lend an engine that relies on nothing of a session, so that it works behind a pooler, too.

    An engine of the caller's is lent as it is: its URL alone may not be enough to connect.
    """
    if not store.owns_engine:
        yield store.engine
        return
    url = store.engine.url
    engine = create_async_engine(url, poolclass=NullPool, connect_args=_CAREFUL[url.get_driver_name()])
    try:
        yield engine
    finally:
        await engine.dispose()


_CAREFUL: dict[str, dict[str, Any]] = {
    "psycopg": {"prepare_threshold": None},
    "asyncpg": {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"__pillarbox_{uuid4()}__",
    },
}


async def _is_pooled(engine: AsyncEngine) -> bool:
    """Tell whether two sessions are seen to share a server process, or one session to change it.

    A session that ended its transaction gives its server process back to a pooler in transaction mode, where the next
    transaction finds it; a direct connection keeps it. A pooler that always has a spare one is not seen.
    """
    async with engine.connect() as one, engine.connect() as other:
        for _ in range(PROBES):
            async with one.begin():
                first: int = (await one.execute(BACKEND)).scalar_one()
            async with other.begin():
                beside: int = (await other.execute(BACKEND)).scalar_one()
                if beside == first:
                    return True
                async with one.begin():
                    if (await one.execute(BACKEND)).scalar_one() != first:
                        return True
    return False


def _too_old(version: int) -> Finding:
    return Finding(
        code="version",
        severity=Severity.ERROR,
        subject="server",
        what=f"PostgreSQL {version // 10000}",
        means="the outbox needs 64-bit transaction ids, which came with 13",
        do="upgrade the server",
    )
