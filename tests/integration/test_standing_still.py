"""Who stands still in the midst of an exchange with PostgreSQL loses what it has locked of ours; nobody else does.

There the server takes the transaction neither for an idle one nor for one at a statement. Whoever prepares a statement
and does not execute it stands as a process does that is frozen just then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from pillarbox import Pillarbox, Settings
from pillarbox.errors import ConflictError, StoreUnavailableError
from pillarbox.stores.postgresql import postgresql_store
from pillarbox.stores.postgresql.brief import BriefTransaction
from pillarbox.stores.postgresql.locks import END_RESTING, LOCK_SPACE
from pillarbox.transaction import Execute, Program, Rows
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillarbox.relational import RelationalStore
    from pillarbox.transaction import Transaction

WITHIN = timedelta(seconds=0.3)
KEY = text(f"SELECT pg_advisory_xact_lock({LOCK_SPACE}, 7)")
TABLE = text("SELECT * FROM pillarbox_schema_version FOR UPDATE")
THEIRS = text("SELECT pg_advisory_xact_lock(7)")
EXPOSED = text("SELECT pid FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'ClientRead'")
HALF_A_SECOND = text("SELECT pg_sleep(0.5)")
WAITING = text("SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory'")

Begin = Callable[["RelationalStore"], AbstractAsyncContextManager["Transaction"]]


def ask(statement: object, **values: object) -> Program[Rows]:
    return (yield Execute(statement, values or None))  # type: ignore[arg-type]


def brief(store: RelationalStore) -> AbstractAsyncContextManager[Transaction]:
    return store.begin_briefly()


def of_handlers(store: RelationalStore) -> AbstractAsyncContextManager[Transaction]:
    return store.begin(shared=True)


every_kind = pytest.mark.parametrize("begin", [brief, of_handlers])


@pytest.fixture
async def store(postgresql_url: str) -> AsyncIterator[RelationalStore]:
    store = postgresql_store(make_url(postgresql_url).set(drivername="postgresql+asyncpg"))
    await store.migrate()
    yield store
    await store.close()


async def driver_of(tx: Any) -> Any:
    """Return the connection of asyncpg that a transaction uses."""
    if isinstance(tx, BriefTransaction):
        return tx._lent._driver
    return (await tx.connection.get_raw_connection()).driver_connection


@every_kind
@pytest.mark.parametrize("lock", [KEY, TABLE])
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_who_rests_between_preparing_and_executing_a_statement_is_ended_by_others(
    postgresql_url: str, store: RelationalStore, begin: Begin, lock: object, driver: str
) -> None:
    other = postgresql_store(make_url(postgresql_url).set(drivername=f"postgresql+{driver}"))
    for one in (store, other):
        one.wait_within(WITHIN)

    async def rest() -> None:
        async with begin(store) as tx:
            await tx.run(ask(lock))
            await (await driver_of(tx)).prepare("SELECT 'parsed, and no more'")
            waiting = asyncio.create_task(other.run(ask(lock)))
            assert await other.end_resting() == 0, "it has not rested for long"
            await wait_until(other.end_resting, what="it is ended")
            with suppress(StoreUnavailableError, ConflictError):  # it waited for too long itself
                await waiting
            assert await other.run(ask(lock)), "the lock is free"

    with pytest.raises(DBAPIError) as raised:
        await rest()

    assert isinstance(store.translate(raised.value), StoreUnavailableError)
    await other.close()


@every_kind
async def test_who_rests_between_preparing_and_executing_a_statement_is_ended_by_a_box(
    postgresql_url: str, store: RelationalStore, begin: Begin
) -> None:
    box = Pillarbox("shop", store=postgresql_url, settings=Settings(answer_within=WITHIN))

    async def rest() -> None:
        async with begin(store) as tx:
            await tx.run(ask(TABLE))
            driver = await driver_of(tx)
            await driver.prepare("SELECT 'parsed, and no more'")
            async with box.running():
                await wait_until(driver.is_closed, what="its connection is ended")

    with pytest.raises(DBAPIError):
        await rest()
    await box.store.close()


async def nobody_is_ended(store: RelationalStore) -> bool:
    return await store.run_single(ask(END_RESTING, rested_s=0.0)) == []


async def test_who_is_idle_or_waits_for_a_lock_is_not_ended_by_others(store: RelationalStore) -> None:
    async with store.begin_briefly() as idle:
        await idle.run(ask(KEY))
        second = asyncio.create_task(store.run(ask(KEY)))
        await wait_until(lambda: store.run_single(ask(WAITING)), what="the second one waits")
        assert await nobody_is_ended(store)
    await second


async def test_who_has_locked_nothing_of_ours_is_not_ended_by_others(store: RelationalStore) -> None:
    async with store.begin(shared=True) as tx:
        await tx.run(ask(THEIRS))
        await (await driver_of(tx)).prepare("SELECT 'parsed, and no more'")

        assert await store.run_single(ask(EXPOSED)), "it stands still"
        assert await nobody_is_ended(store)


async def test_who_copies_rows_is_not_ended_by_others(store: RelationalStore) -> None:
    """They may come from somewhere slow."""
    over = asyncio.Event()

    async def rows() -> AsyncGenerator[bytes]:
        await over.wait()
        yield b""

    async with store.begin(shared=True) as tx:
        await tx.run(ask(TABLE))
        driver = await driver_of(tx)
        copying = asyncio.create_task(driver.copy_to_table("pillarbox_outbox", source=rows()))
        await wait_until(lambda: store.run_single(ask(EXPOSED)), what="the server waits for rows")

        try:
            assert await nobody_is_ended(store)
        finally:
            over.set()
            assert await copying == "COPY 0"


async def test_who_sends_one_statement_after_the_other_is_not_ended_by_others(postgresql_url: str) -> None:
    """Each message begins the time anew, though the exchange as a whole lasts longer than anybody may rest."""
    store = postgresql_store(make_url(postgresql_url).set(drivername="postgresql+psycopg"))
    await store.migrate()
    async with store.begin(shared=True) as tx:
        await tx.run(ask(TABLE))
        driver = await driver_of(tx)
        async with driver.pipeline():
            for _ in range(5):
                await driver.execute("SELECT 1")
                await store.run_single(ask(HALF_A_SECOND))
                assert await store.run_single(ask(EXPOSED)), "the server waits for the end of the exchange"
                assert await store.run_single(ask(END_RESTING, rested_s=2.0)) == []
    await store.close()
