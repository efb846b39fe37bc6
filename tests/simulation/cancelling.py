"""Cancels work at an await of one's choice, and looks for what it may have left behind in the database."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.pool import QueuePool

from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.relational import RelationalStore
from pillarbox.stores.postgresql.direct import AsyncpgStore

OPEN = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND backend_type = 'client backend'",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx JOIN information_schema.processlist"
    " ON id = trx_mysql_thread_id WHERE db = database() AND id <> connection_id()",
}
"""How many transactions others have open in this database, idle or not."""


@dataclass(slots=True)
class Awaits:
    """Counts the awaits at which a task really waits, and cancels it at one of them."""

    cancel_at: int
    passed: int = 0

    @property
    def is_reached(self) -> bool:
        """Whether the task was cancelled."""
        return self.passed >= self.cancel_at

    @types.coroutine
    def drive(self, work: Coroutine[Any, Any, object]) -> Generator[Any, Any, object]:
        """Run ``work`` step by step in the current task."""
        thrown: BaseException | None = None
        while True:
            try:
                waits_for = work.send(None) if thrown is None else work.throw(thrown)
            except StopIteration as end:
                return end.value
            finally:
                thrown = None  # or it would keep alive, through its traceback, what the work held
            self.passed += 1
            if self.passed == self.cancel_at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waits_for
            except BaseException as error:  # whatever it is, it is for the work to see
                thrown = error


async def is_cancelled_at(number: int, work: Coroutine[Any, Any, object]) -> bool:
    """Run ``work`` and cancel it at await ``number``, counted from 1; return ``False`` if it has fewer and ends.

    Raises:
        AssertionError: it went on as if nothing had happened.
    """
    awaits = Awaits(number)

    async def driven() -> None:
        await awaits.drive(work)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(driven())
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()
    assert task.cancelled() is awaits.is_reached, f"cancelled at await {number}, it ended all the same"
    return awaits.is_reached


async def nothing_is_left_open(store: RelationalStore) -> None:
    """Assert that every connection is back in its pool, and that no transaction is open in the database."""
    if isinstance(store, AsyncpgStore):
        await store._spare.close()  # it may keep some connections, which are idle
    pools = [pool for pool in (store.engine.pool, store.sync_engine.pool) if isinstance(pool, QueuePool)]
    await wait_until(  # SQLAlchemy closes in a task of its own where it was cancelled
        lambda: not any(pool.checkedout() for pool in pools), what="every connection is back in its pool"
    )
    question = OPEN.get(store.engine.dialect.name.replace("mariadb", "mysql"))
    if question is None:
        return

    async def is_none_open() -> bool:
        async with store.engine.connect() as connection:
            return not await connection.scalar(text(question))

    await wait_until(is_none_open, what="no open transaction")


async def pool_is_whole(store: RelationalStore) -> None:
    """Assert that as many connections can be had at once as the pool is large."""
    pool = store.engine.pool
    async with AsyncExitStack() as stack:
        for _ in range(pool.size() if isinstance(pool, QueuePool) else 1):
            await asyncio.wait_for(stack.enter_async_context(store.engine.connect()), 10)
