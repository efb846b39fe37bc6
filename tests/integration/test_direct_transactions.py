"""Transactions that SQLAlchemy has begun, with programs that go past it, to the driver."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import bindparam, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from pillarbox.errors import ConflictError, StoreUnavailableError
from pillarbox.stores.postgresql import postgresql_store
from pillarbox.stores.postgresql.direct import AsyncpgStore, SyncPsycopgTransaction
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.testing.contracts.harness import make_record
from pillarbox.transaction import Execute, Program, Rows
from tests.simulation.cancelling import is_cancelled_at, nothing_is_left_open
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillarbox.relational import RelationalStore

HOW_LONG = text("SHOW lock_timeout")
AMONG = text("SELECT count(*) FROM pillarbox_outbox WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))
COUNT = text("SELECT count(*) FROM pillarbox_outbox")
WHO = text("SELECT pg_backend_pid()")
END = text("SELECT pg_terminate_backend(:pid)")
FAIL = text("SELECT 1 FROM nowhere")


def ask(statement: object, **values: object) -> Program[Rows]:
    return (yield Execute(statement, values or None))  # type: ignore[arg-type]


ON_SERVER = [pytest.param(f"postgresql+{driver}", marks=pytest.mark.server) for driver in ("asyncpg", "psycopg")]


@pytest.fixture(params=["sqlite", *ON_SERVER])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[RelationalStore]:
    store = _store(request)
    await store.migrate()
    yield store
    await store.close()


def _store(request: pytest.FixtureRequest) -> RelationalStore:
    if request.param == "sqlite":
        return sqlite_store(make_url(request.getfixturevalue("sqlite_url")))
    return postgresql_store(make_url(request.getfixturevalue("postgresql_url")).set(drivername=request.param))


on_postgresql = pytest.mark.parametrize("store", ON_SERVER, indirect=True)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("is_lent", [False, True])
async def test_a_wait_for_a_lock_is_bounded_in_every_kind_of_transaction(
    postgresql_url: str, driver: str, is_lent: bool
) -> None:
    url = make_url(postgresql_url).set(drivername=f"postgresql+{driver}")
    lent = create_async_engine(url)
    store = postgresql_store(lent if is_lent else url)

    async with store.begin() as tx:
        assert await tx.run(ask(HOW_LONG)) == [("10s",)]
    assert await store.run(ask(HOW_LONG)) == [("10s",)]

    def in_thread() -> None:
        with store.begin_sync() as tx:
            assert tx.run(ask(HOW_LONG)) == [("10s",)]

    await asyncio.to_thread(in_thread)
    async with store.engine.connect() as theirs:
        await theirs.execution_options(isolation_level="AUTOCOMMIT")
        assert (await theirs.execute(HOW_LONG)).scalar_one() == "0", "nothing outlives its transaction"
    await store.close()
    await lent.dispose()


@pytest.mark.parametrize("isolation", [None, "read_committed", "serializable"])
async def test_a_wait_for_a_lock_is_bounded_whatever_isolation_sqlalchemy_asks_the_driver_for(
    asyncpg_store: RelationalStore, isolation: str | None
) -> None:
    """Releases before 2.1 name the default one too."""
    async with asyncpg_store.engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        async with driver.transaction(isolation=isolation):
            assert await driver.fetchval(str(HOW_LONG)) == "10s"


async def test_programs_and_statements_of_handlers_are_one_transaction(store: RelationalStore) -> None:
    async def write_and_fail() -> None:
        async with store.begin() as tx:
            await tx.run(store.outbox.append([make_record("m1")]))
            assert (await tx.connection.execute(COUNT)).scalar_one() == 1
            await tx.connection.execute(text("CREATE TABLE theirs (id INTEGER)"))
            assert await tx.run(ask(text("SELECT count(*) FROM theirs"))) == [(0,)]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write_and_fail()

    assert await store.run(ask(COUNT)) == [(0,)]


async def test_a_program_after_the_transaction_was_ended_is_part_of_the_next_one(store: RelationalStore) -> None:
    async with store.begin() as tx:
        await tx.run(store.outbox.append([make_record("undone")]))
        await tx.connection.rollback()
        await tx.run(store.outbox.append([make_record("m1"), make_record("m2")]))
        await tx.connection.rollback()
        await tx.run(store.outbox.append([make_record("m3")]))

    assert await store.run(ask(COUNT)) == [(1,)]


async def test_a_statement_that_cannot_be_prepared_goes_by_sqlalchemy(store: RelationalStore) -> None:
    async with store.begin() as tx:
        await tx.run(store.outbox.append([make_record("m1"), make_record("m2")]))

        assert await tx.run(ask(AMONG, ids=["m1", "m3"])) == [(1,)]
        assert await tx.run(ask(AMONG, ids=["m1", "m2", "m3"])) == [(2,)]


async def test_the_same_holds_in_a_thread(store: RelationalStore) -> None:
    def write_and_fail() -> None:
        with store.begin_sync() as tx:
            tx.run(store.outbox.append([make_record("undone")]))
            tx.connection.rollback()
            tx.run(store.outbox.append([make_record("m1"), make_record("m2")]))
            assert tx.connection.execute(COUNT).scalar_one() == 2
            assert tx.run(ask(AMONG, ids=["m1", "m3"])) == [(1,)]
            tx.run(ask(FAIL))

    with pytest.raises(DBAPIError, match="nowhere") as raised:
        await asyncio.to_thread(write_and_fail)

    assert raised.value.statement == str(FAIL)
    assert await store.run(ask(COUNT)) == [(0,)]


def test_by_another_driver_than_psycopg_an_engine_of_the_caller_s_goes_by_sqlalchemy(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    with engine.connect() as connection:
        connection.begin()

        assert SyncPsycopgTransaction(connection).run(ask(text("SELECT 7"))) == [(7,)]
    engine.dispose()


async def test_errors_are_those_of_sqlalchemy_and_name_the_statement(store: RelationalStore) -> None:
    async def fail() -> None:
        async with store.begin() as tx:
            await tx.run(ask(COUNT))
            await tx.run(ask(FAIL))

    with pytest.raises(DBAPIError, match="nowhere") as raised:
        await fail()

    assert raised.value.statement == str(FAIL)
    assert not raised.value.connection_invalidated
    assert await store.run(ask(COUNT)) == [(0,)]


@on_postgresql
async def test_a_lock_that_is_not_to_be_had_is_a_conflict(store: RelationalStore) -> None:
    lock = text("SELECT pg_advisory_xact_lock(7)")
    hurry = text("SET LOCAL lock_timeout = '20ms'")

    def wait() -> Program[None]:
        yield Execute(COUNT)
        yield Execute(hurry)
        yield Execute(lock)

    async with store.begin() as holder:
        await holder.run(ask(lock))
        with pytest.raises(ConflictError):
            await store.run(wait())


@on_postgresql
async def test_a_connection_that_is_ended_within_a_transaction_is_an_absent_server(store: RelationalStore) -> None:
    async def be_ended() -> None:
        async with store.begin() as other, store.begin() as tx:
            ((pid,),) = await tx.run(ask(WHO))
            await other.run(ask(END, pid=pid))
            async with asyncio.timeout(20):
                while True:
                    await tx.run(ask(COUNT))

    with pytest.raises(DBAPIError) as raised:
        await be_ended()

    assert isinstance(store.translate(raised.value), StoreUnavailableError)
    assert await store.run(ask(COUNT)) == [(0,)], "the pool has lent no broken connection on"


@pytest.fixture
async def asyncpg_store(postgresql_url: str) -> AsyncIterator[RelationalStore]:
    store = postgresql_store(make_url(postgresql_url).set(drivername="postgresql+asyncpg"))
    await store.migrate()
    yield store
    await store.close()


@on_postgresql
async def test_a_brief_transaction_is_one(store: RelationalStore) -> None:
    async def write_and_fail() -> None:
        async with store.begin_briefly() as tx:
            await tx.run(store.outbox.append([make_record("undone")]))
            assert await tx.run(ask(COUNT)) == [(1,)]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write_and_fail()
    async with store.begin_briefly() as tx:
        await tx.run(store.outbox.append([make_record("m1")]))
        assert await store.run(ask(COUNT)) == [(0,)], "nobody sees it before the commit"

    assert await store.run(ask(COUNT)) == [(1,)]


async def test_a_brief_transaction_whose_failure_was_swallowed_is_not_taken_for_committed(
    asyncpg_store: RelationalStore,
) -> None:
    def swallow() -> Program[None]:
        yield from asyncpg_store.outbox.append([make_record("m1")])
        with suppress(DBAPIError):
            yield Execute(FAIL)

    with pytest.raises(ConflictError, match="rolled"):
        await asyncpg_store.run(swallow())

    assert await asyncpg_store.run(ask(COUNT)) == [(0,)]


async def test_who_is_cancelled_in_a_brief_transaction_leaves_none_open(asyncpg_store: RelationalStore) -> None:
    lock = text("SELECT pg_advisory_xact_lock(7)")
    begun = asyncio.Event()

    def wait() -> Program[None]:
        yield from asyncpg_store.outbox.append([make_record("m1")])
        begun.set()
        yield Execute(lock)

    async with asyncpg_store.begin() as holder:
        await holder.run(ask(lock))
        waiting = asyncio.create_task(asyncpg_store.run(wait()))
        await begun.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    assert await asyncpg_store.run(ask(COUNT)) == [(0,)]
    await nothing_is_left_open(asyncpg_store)


async def test_who_is_cancelled_at_any_await_of_a_brief_transaction_keeps_no_connection_of_unknown_state(
    asyncpg_store: RelationalStore,
) -> None:
    assert isinstance(asyncpg_store, AsyncpgStore)
    spare = asyncpg_store._spare

    async def write_and_fail() -> None:
        with suppress(ZeroDivisionError):
            async with asyncpg_store.begin_briefly() as tx:
                await tx.run(asyncpg_store.outbox.append([make_record("undone")]))
                raise ZeroDivisionError

    await write_and_fail()
    for _ in range(5):  # an answer that is there already hides that nobody waited for it
        number = 1
        while await is_cancelled_at(number, write_and_fail()):
            assert not any(lent._driver.is_in_transaction() for lent in spare._idle), f"cancelled at await {number}"
            await asyncpg_store.run(ask(COUNT))  # there is one at hand for the next round
            number += 1
        assert number > 3, "begin, a statement, rollback"
    assert await asyncpg_store.run(ask(COUNT)) == [(0,)]
    await nothing_is_left_open(asyncpg_store)


async def test_a_pool_of_one_connection_is_enough(postgresql_url: str) -> None:
    url = make_url(postgresql_url).set(drivername="postgresql+asyncpg")
    lent = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=5)
    store = postgresql_store(lent)
    await store.migrate()

    for number in range(3):
        assert await store.run_single(ask(COUNT)) == [(number,)]
        await store.run(store.outbox.append([make_record(f"m{number}")]))
        async with store.begin() as tx:
            assert await tx.run(ask(COUNT)) == [(number + 1,)]
    await store.close()
    await lent.dispose()


async def test_a_connection_at_hand_that_the_server_has_ended_is_not_used(asyncpg_store: RelationalStore) -> None:
    ((pid,),) = await asyncpg_store.run_single(ask(WHO))
    assert isinstance(asyncpg_store, AsyncpgStore)
    (kept,) = asyncpg_store._spare._idle
    async with asyncpg_store.begin() as other:
        await other.run(ask(END, pid=pid))
    await wait_until(lambda: not kept.is_sound, what="the driver knows that it was ended")

    ((other_pid,),) = await asyncpg_store.run(ask(WHO))

    assert other_pid != pid


async def test_a_brief_transaction_sees_what_was_committed_whatever_the_engine_begins_with(postgresql_url: str) -> None:
    url = make_url(postgresql_url).set(drivername="postgresql+asyncpg")
    lent = create_async_engine(url, isolation_level="REPEATABLE READ")
    store = postgresql_store(lent)
    await store.migrate()

    async with store.begin_briefly() as tx:
        assert await tx.run(ask(COUNT)) == [(0,)]
        await store.run(store.outbox.append([make_record("m1")]))
        assert await tx.run(ask(COUNT)) == [(1,)]
    await store.close()
    await lent.dispose()


async def test_a_transaction_of_handlers_is_begun_with_its_first_program_or_statement(
    asyncpg_store: RelationalStore,
) -> None:
    """The first program too goes past SQLAlchemy, whose statements and whose end are part of the same transaction."""
    async with asyncpg_store.begin() as tx:
        driver = (await tx.connection.get_raw_connection()).driver_connection
        assert driver is not None
        assert not driver.is_in_transaction(), "who has nothing to write yet is not idle in a transaction"
        await tx.run(ask(COUNT))
        assert driver.is_in_transaction()
        await tx.run(asyncpg_store.outbox.append([make_record("m1")]))
        await tx.connection.execute(text("CREATE TABLE theirs (id INTEGER)"))
        await tx.connection.rollback()
        assert not driver.is_in_transaction()

    async with asyncpg_store.begin() as tx:
        await tx.connection.execute(text("CREATE TABLE theirs (id INTEGER)"))
        await tx.run(asyncpg_store.outbox.append([make_record("m2")]))
    assert await asyncpg_store.run(ask(COUNT)) == [(1,)]
    assert await asyncpg_store.run(ask(text("SELECT count(*) FROM theirs"))) == [(0,)]
