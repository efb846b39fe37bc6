"""What callers set on their connections: which of it is refused, and which of it does not matter."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import NullPool, create_engine, event, text
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pillarbox.errors import ConfigurationError, NoTransactionError
from pillarbox.transaction import Execute, Program, Rows, adopt, adopt_sync
from tests.integration.callers import django_on_postgresql, django_on_sqlite, engine_url

ONE = text("SELECT 1 AS a, 'x' AS b")


def ask(statement: Any = ONE) -> Program[Rows]:
    return (yield Execute(statement))


def file_of(sqlite_url: str) -> str:
    return sqlite_url.removeprefix("sqlite:///")


# SQLAlchemy


@pytest.fixture(params=["engine", "engine options", "connection options"])
def autocommit(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Options of the engine, its execution options, and those of the connection."""
    options = {"isolation_level": "AUTOCOMMIT"}
    return (
        options if request.param == "engine" else {},
        options if request.param == "engine options" else {},
        options if request.param == "connection options" else {},
    )


@pytest.mark.parametrize("database", ["sqlite:pysqlite", "postgresql:psycopg"])
def test_a_sqlalchemy_connection_in_autocommit_is_refused(
    request: pytest.FixtureRequest, database: str, autocommit: tuple[dict[str, Any], ...]
) -> None:
    name, driver = database.split(":")
    url = request.getfixturevalue("postgresql_module_url" if name == "postgresql" else "sqlite_url")
    engine = create_engine(engine_url(url, driver), poolclass=NullPool, **autocommit[0])
    engine = engine.execution_options(**autocommit[1])

    with engine.connect() as connection:
        connection.execution_options(**autocommit[2])
        with pytest.raises(NoTransactionError, match=r"SQLAlchemy Connection .*AUTOCOMMIT"):
            adopt_sync(connection).run(ask())
    with Session(engine) as session:
        session.connection(execution_options=autocommit[2])
        with pytest.raises(NoTransactionError, match="AUTOCOMMIT"):
            adopt_sync(session).run(ask())


@pytest.mark.parametrize("database", ["sqlite:aiosqlite", "postgresql:psycopg", "postgresql:asyncpg"])
async def test_an_asynchronous_sqlalchemy_connection_in_autocommit_is_refused(
    request: pytest.FixtureRequest, database: str, autocommit: tuple[dict[str, Any], ...]
) -> None:
    name, driver = database.split(":")
    url = request.getfixturevalue("postgresql_module_url" if name == "postgresql" else "sqlite_url")
    engine = create_async_engine(engine_url(url, driver), poolclass=NullPool, **autocommit[0])
    engine = engine.execution_options(**autocommit[1])

    async with engine.connect() as connection:
        await connection.execution_options(**autocommit[2])
        with pytest.raises(NoTransactionError, match="AUTOCOMMIT"):
            await adopt(connection).run(ask())
    async with AsyncSession(engine) as session:
        await session.connection(execution_options=autocommit[2])
        with pytest.raises(NoTransactionError, match="AUTOCOMMIT"):
            await adopt(session).run(ask())


def test_a_connection_that_overrides_its_engines_autocommit_is_joined(postgresql_module_url: str) -> None:
    engine = create_engine(engine_url(postgresql_module_url, "psycopg"), poolclass=NullPool)
    engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        assert list(adopt_sync(connection).run(ask())[0]) == [1, "x"]
        assert connection.in_transaction()


def test_a_sqlite_driver_left_without_transactions_is_refused(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url, poolclass=NullPool, connect_args={"isolation_level": None})

    with engine.connect() as connection, pytest.raises(NoTransactionError, match="AUTOCOMMIT"):
        adopt_sync(connection).run(ask())


def test_a_sqlite_driver_whose_begin_is_taken_over_by_a_listener_is_joined(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url, poolclass=NullPool, connect_args={"isolation_level": None})
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))

    with engine.connect() as connection:
        assert list(adopt_sync(connection).run(ask())[0]) == [1, "x"]


def test_a_fresh_sqlite_transaction_begins_as_a_writer(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url, poolclass=NullPool)

    with engine.connect() as connection, closing(sqlite3.connect(file_of(sqlite_url), timeout=0)) as other:
        adopt_sync(connection).run(ask())
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")


def test_a_nested_session_that_is_released_rolls_back_with_the_outer_one(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE parcels (id INTEGER PRIMARY KEY)"))

    with Session(engine) as session:
        adopt_sync(session).run(ask())
        with session.begin_nested():
            adopt_sync(session).run(ask(text("INSERT INTO parcels VALUES (1)")))
        session.rollback()

    with engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM parcels")).all() == []


async def test_a_sqlalchemy_connection_that_is_closed_or_not_started_is_refused(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url, poolclass=NullPool)
    async_engine = create_async_engine(engine_url(sqlite_url, "aiosqlite"), poolclass=NullPool)
    with engine.connect() as connection:
        joined = adopt_sync(connection)
    async with async_engine.connect() as async_connection:
        pass

    with pytest.raises(NoTransactionError, match="closed"):
        adopt_sync(connection)
    with pytest.raises(NoTransactionError, match="closed"):
        joined.run(ask())
    with pytest.raises(NoTransactionError, match=r"closed|never started"):
        adopt(async_connection)
    with pytest.raises(NoTransactionError, match="never started"):
        adopt(AsyncConnection(async_engine))


async def test_a_scoped_session_stands_for_the_session_of_its_scope(sqlite_url: str) -> None:
    scoped = scoped_session(sessionmaker(create_engine(sqlite_url, poolclass=NullPool)))
    async_engine = create_async_engine(engine_url(sqlite_url, "aiosqlite"), poolclass=NullPool)
    async_scoped = async_scoped_session(async_sessionmaker(async_engine), scopefunc=lambda: "here")

    assert list(adopt_sync(scoped).run(ask())[0]) == [1, "x"]
    scoped.remove()
    assert list((await adopt(async_scoped).run(ask()))[0]) == [1, "x"]
    await async_scoped.remove()


def test_a_raw_connection_of_an_engine_stands_for_its_driver(postgresql_module_url: str) -> None:
    engine = create_engine(engine_url(postgresql_module_url, "psycopg"), poolclass=NullPool)

    with closing(engine.raw_connection()) as raw:
        assert list(adopt_sync(raw).run(ask())[0]) == [1, "x"]


# Drivers


def test_a_psycopg_connection_in_autocommit_is_refused_outside_a_transaction(postgresql_module_url: str) -> None:
    with psycopg.connect(postgresql_module_url, autocommit=True) as connection:
        with connection.transaction():
            joined = adopt_sync(connection)
            assert list(joined.run(ask())[0]) == [1, "x"]
        with pytest.raises(NoTransactionError, match=r"psycopg Connection .*autocommit"):
            joined.run(ask())
        with pytest.raises(NoTransactionError, match=r"psycopg Connection .*autocommit"):
            adopt_sync(connection)
    with pytest.raises(NoTransactionError, match="closed"):
        adopt_sync(connection)


async def test_an_asynchronous_psycopg_connection_in_autocommit_is_refused_outside_a_transaction(
    postgresql_module_url: str,
) -> None:
    async with await psycopg.AsyncConnection.connect(postgresql_module_url, autocommit=True) as connection:
        async with connection.transaction():
            joined = adopt(connection)
            assert list((await joined.run(ask()))[0]) == [1, "x"]
        with pytest.raises(NoTransactionError, match="autocommit"):
            await joined.run(ask())
        with pytest.raises(NoTransactionError, match=r"psycopg AsyncConnection .*autocommit"):
            adopt(connection)
        with pytest.raises(ConfigurationError, match="await the method without _sync"):
            adopt_sync(connection)  # type: ignore[arg-type]  # what is refused here
    with pytest.raises(NoTransactionError, match="closed"):
        adopt(connection)


def counted_and_failed() -> Program[tuple[int, str]]:
    rows = yield Execute(text("SELECT count(*) FROM generate_series(1, 7)"))
    yield Execute(text("SAVEPOINT before_failure"))
    try:
        yield Execute(text("SELECT 1 / 0"))
    except psycopg.errors.DivisionByZero:
        return rows[0][0], "failed where it was executed"
    return rows[0][0], "failed later"


async def test_a_psycopg_pipeline_answers_each_statement_of_a_program(postgresql_module_url: str) -> None:
    with (
        psycopg.connect(postgresql_module_url, autocommit=True) as connection,
        connection.pipeline(),
        connection.transaction(force_rollback=True),
    ):
        assert adopt_sync(connection).run(counted_and_failed()) == (7, "failed where it was executed")
        connection.execute("ROLLBACK TO SAVEPOINT before_failure")
    async with await psycopg.AsyncConnection.connect(postgresql_module_url) as awaited, awaited.pipeline():
        assert await adopt(awaited).run(counted_and_failed()) == (7, "failed where it was executed")
        await awaited.rollback()


async def test_an_asyncpg_connection_outside_a_transaction_is_refused(postgresql_module_url: str) -> None:
    connection = await asyncpg.connect(postgresql_module_url)
    async with connection.transaction():
        joined = adopt(connection)
        assert list((await joined.run(ask()))[0]) == [1, "x"]

    with pytest.raises(NoTransactionError, match=r"asyncpg Connection .*outside a transaction"):
        await joined.run(ask())
    with pytest.raises(NoTransactionError, match=r"connection\.transaction\(\)"):
        adopt(connection)
    with pytest.raises(ConfigurationError, match="await the method without _sync"):
        adopt_sync(connection)
    await connection.close()
    with pytest.raises(NoTransactionError, match="closed"):
        adopt(connection)


async def test_an_asyncpg_connection_that_went_back_to_its_pool_is_refused(postgresql_module_url: str) -> None:
    async with asyncpg.create_pool(postgresql_module_url, min_size=1, max_size=1) as pool:
        async with pool.acquire() as lent:
            pass

        with pytest.raises(NoTransactionError, match="pool"):
            adopt(lent)
        with pytest.raises(ConfigurationError, match=r"Pool is not a transaction"):
            adopt(pool)


def test_a_sqlite3_connection_without_an_open_transaction_is_refused(sqlite_url: str) -> None:
    with closing(sqlite3.connect(file_of(sqlite_url))) as connection:
        with pytest.raises(NoTransactionError, match=r"sqlite3 Connection .*BEGIN IMMEDIATE"):
            adopt_sync(connection)
        connection.execute("BEGIN")
        joined = adopt_sync(connection)
        connection.rollback()
        with pytest.raises(NoTransactionError, match="no transaction is open"):
            joined.run(ask())
    with pytest.raises(NoTransactionError, match="closed"):
        adopt_sync(connection)


async def test_an_aiosqlite_connection_without_an_open_transaction_is_refused(sqlite_url: str) -> None:
    async with aiosqlite.connect(file_of(sqlite_url)) as connection:
        with pytest.raises(NoTransactionError, match=r"aiosqlite Connection .*BEGIN IMMEDIATE"):
            adopt(connection)
        with pytest.raises(ConfigurationError, match="await the method without _sync"):
            adopt_sync(connection)  # type: ignore[arg-type]  # what is refused here
    with pytest.raises(NoTransactionError, match="closed"):
        adopt(connection)


@pytest.fixture
def _django_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")


@pytest.mark.usefixtures("_django_in_a_loop")
@pytest.mark.parametrize("opened", [django_on_sqlite, django_on_postgresql])
async def test_a_django_connection_outside_atomic_is_refused(request: pytest.FixtureRequest, opened: Any) -> None:
    url = request.getfixturevalue("sqlite_url" if opened is django_on_sqlite else "postgresql_module_url")
    async with opened(url) as caller:
        with pytest.raises(NoTransactionError, match=r"Django connection 'parcels' .*atomic"):
            adopt_sync(caller.tx)
        caller.begin()
        joined = adopt_sync(caller.tx)
        caller.commit()

        with pytest.raises(NoTransactionError, match="atomic"):
            joined.run(ask())
        with pytest.raises(ConfigurationError, match="publish_sync"):
            adopt(caller.tx)


# Row factories and cursors


def mapped(_cursor: Any, row: Any) -> dict[str, Any]:
    return {"row": row}


async def test_rows_are_positional_whatever_the_row_factory_of_sqlite(sqlite_url: str) -> None:
    with closing(sqlite3.connect(file_of(sqlite_url))) as connection:
        connection.row_factory = mapped
        connection.execute("BEGIN")
        assert list(adopt_sync(connection).run(ask())[0]) == [1, "x"]
    async with aiosqlite.connect(file_of(sqlite_url)) as awaited:
        awaited.row_factory = mapped  # type: ignore[assignment]  # aiosqlite declares a class, and takes any callable
        await awaited.execute("BEGIN")
        assert list((await adopt(awaited).run(ask()))[0]) == [1, "x"]


async def test_rows_are_positional_whatever_the_cursor_of_psycopg(postgresql_module_url: str) -> None:
    with psycopg.connect(postgresql_module_url, row_factory=dict_row, cursor_factory=psycopg.RawCursor) as connection:
        assert list(adopt_sync(connection).run(ask())[0]) == [1, "x"]
    async with await psycopg.AsyncConnection.connect(
        postgresql_module_url, row_factory=dict_row, cursor_factory=psycopg.AsyncClientCursor
    ) as awaited:
        assert list((await adopt(awaited).run(ask()))[0]) == [1, "x"]
