"""Every kind of connection that a caller may hold, behind one handful of verbs."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiosqlite
import asyncpg
import django
import psycopg
from django.conf import settings
from django.db import connections
from django.db.transaction import Atomic, atomic
from django.utils.connection import ConnectionProxy
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pillarbox.transaction import Program, adopt, adopt_sync

T = TypeVar("T")


@dataclass
class Caller:
    """One open connection, and how its owner begins, commits, rolls back and speaks SQL."""

    tx: Any
    begin: Callable[[], Any]
    commit: Callable[[], Any]
    rollback: Callable[[], Any]
    execute: Callable[[str], Any]
    synchronous: bool = False

    async def own(self, verb: str, *arguments: Any) -> None:
        """Do what the owner does, awaiting it where it must be."""
        done = getattr(self, verb)(*arguments)
        if inspect.isawaitable(done):
            await done

    async def run(self, program: Program[T]) -> T:
        """Run ``program`` in the open transaction."""
        return adopt_sync(self.tx).run(program) if self.synchronous else await adopt(self.tx).run(program)

    @property
    def dialect_name(self) -> str:
        """What the adopted transaction says it speaks."""
        return (adopt_sync if self.synchronous else adopt)(self.tx).dialect_name


Opened = AbstractAsyncContextManager[Caller]


def nothing() -> None:
    """Begin with the first statement."""


async def nothing_awaited() -> None:
    """Begin with the first statement."""


def engine_url(url: str, driver: str) -> str:
    scheme, rest = url.split("://", 1)
    return f"{scheme}+{driver}://{rest}"


@asynccontextmanager
async def sqlalchemy_connection(url: str, driver: str) -> AsyncIterator[Caller]:
    engine = create_engine(engine_url(url, driver))
    with engine.connect() as connection:
        yield Caller(
            connection,
            nothing,
            connection.commit,
            connection.rollback,
            lambda sql: connection.execute(text(sql)),
            synchronous=True,
        )
    engine.dispose()


@asynccontextmanager
async def sqlalchemy_session(url: str, driver: str) -> AsyncIterator[Caller]:
    engine = create_engine(engine_url(url, driver))
    with Session(engine) as session:
        yield Caller(
            session,
            nothing,
            session.commit,
            session.rollback,
            lambda sql: session.execute(text(sql)),
            synchronous=True,
        )
    engine.dispose()


@asynccontextmanager
async def sqlalchemy_async_connection(url: str, driver: str) -> AsyncIterator[Caller]:
    engine = create_async_engine(engine_url(url, driver))
    async with engine.connect() as connection:
        yield Caller(
            connection,
            nothing_awaited,
            connection.commit,
            connection.rollback,
            lambda sql: connection.execute(text(sql)),
        )
    await engine.dispose()


@asynccontextmanager
async def sqlalchemy_async_session(url: str, driver: str) -> AsyncIterator[Caller]:
    engine = create_async_engine(engine_url(url, driver))
    async with AsyncSession(engine) as session:
        yield Caller(session, nothing_awaited, session.commit, session.rollback, lambda sql: session.execute(text(sql)))
    await engine.dispose()


@asynccontextmanager
async def sqlite3_connection(url: str) -> AsyncIterator[Caller]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    yield Caller(
        connection,
        lambda: connection.execute("BEGIN IMMEDIATE"),
        connection.commit,
        connection.rollback,
        connection.execute,
        synchronous=True,
    )
    connection.close()


@asynccontextmanager
async def aiosqlite_connection(url: str) -> AsyncIterator[Caller]:
    async with aiosqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None) as connection:
        yield Caller(
            connection,
            lambda: connection.execute("BEGIN IMMEDIATE"),
            connection.commit,
            connection.rollback,
            connection.execute,
        )


@asynccontextmanager
async def psycopg_connection(url: str) -> AsyncIterator[Caller]:
    with psycopg.connect(url) as connection:
        yield Caller(connection, nothing, connection.commit, connection.rollback, connection.execute, synchronous=True)


@asynccontextmanager
async def psycopg_autocommit_connection(url: str) -> AsyncIterator[Caller]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield Caller(
            connection,
            lambda: connection.execute("BEGIN"),
            connection.commit,
            connection.rollback,
            connection.execute,
            synchronous=True,
        )


@asynccontextmanager
async def psycopg_async_connection(url: str) -> AsyncIterator[Caller]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield Caller(connection, nothing_awaited, connection.commit, connection.rollback, connection.execute)


def asyncpg_caller(connection: Any) -> Caller:
    def sql(statement: str) -> Callable[[], Awaitable[Any]]:
        return lambda: connection.execute(statement)

    return Caller(connection, sql("BEGIN"), sql("COMMIT"), sql("ROLLBACK"), connection.execute)


@asynccontextmanager
async def asyncpg_connection(url: str) -> AsyncIterator[Caller]:
    connection = await asyncpg.connect(url)
    yield asyncpg_caller(connection)
    await connection.close()


@asynccontextmanager
async def asyncpg_pool_connection(url: str) -> AsyncIterator[Caller]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        yield asyncpg_caller(connection)


@asynccontextmanager
async def django_connection(database: dict[str, Any]) -> AsyncIterator[Caller]:
    if not settings.configured:
        settings.configure()
        django.setup()
    alias = "parcels"
    connections.settings[alias] = connections.configure_settings({"default": {}, alias: database})[alias]
    wrapper = connections[alias]
    blocks: list[Atomic] = []

    def begin() -> None:
        connections[alias] = wrapper  # Django keeps them by asynchronous context: that of the fixture is not the test's
        blocks.append(atomic(using=alias))
        blocks[-1].__enter__()

    def commit() -> None:
        blocks.pop().__exit__(None, None, None)

    def rollback() -> None:
        blocks.pop().__exit__(RuntimeError, RuntimeError("roll back"), None)

    def execute(sql: str) -> None:
        with wrapper.cursor() as cursor:
            cursor.execute(sql)

    yield Caller(ConnectionProxy(connections, alias), begin, commit, rollback, execute, synchronous=True)
    if wrapper.connection is not None:
        wrapper.connection.close()
    del connections[alias]
    del connections.settings[alias]


def django_on_sqlite(url: str) -> Opened:
    return django_connection({"ENGINE": "django.db.backends.sqlite3", "NAME": url.removeprefix("sqlite:///")})


def django_on_postgresql(url: str) -> Opened:
    parts = psycopg.conninfo.conninfo_to_dict(url)
    return django_connection(
        {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts["dbname"],
            "USER": parts["user"],
            "HOST": parts["host"],
            "PORT": str(parts["port"]),
        }
    )


ON_SQLITE: dict[str, Callable[[str], Opened]] = {
    "sqlalchemy-connection": lambda url: sqlalchemy_connection(url, "pysqlite"),
    "sqlalchemy-session": lambda url: sqlalchemy_session(url, "pysqlite"),
    "sqlalchemy-async-connection": lambda url: sqlalchemy_async_connection(url, "aiosqlite"),
    "sqlalchemy-async-session": lambda url: sqlalchemy_async_session(url, "aiosqlite"),
    "sqlite3": sqlite3_connection,
    "aiosqlite": aiosqlite_connection,
    "django": django_on_sqlite,
}
ON_POSTGRESQL: dict[str, Callable[[str], Opened]] = {
    "sqlalchemy-connection": lambda url: sqlalchemy_connection(url, "psycopg"),
    "sqlalchemy-session": lambda url: sqlalchemy_session(url, "psycopg"),
    "sqlalchemy-async-connection-asyncpg": lambda url: sqlalchemy_async_connection(url, "asyncpg"),
    "sqlalchemy-async-connection-psycopg": lambda url: sqlalchemy_async_connection(url, "psycopg"),
    "sqlalchemy-async-session-asyncpg": lambda url: sqlalchemy_async_session(url, "asyncpg"),
    "asyncpg": asyncpg_connection,
    "asyncpg-pool": asyncpg_pool_connection,
    "psycopg": psycopg_connection,
    "psycopg-autocommit": psycopg_autocommit_connection,
    "psycopg-async": psycopg_async_connection,
    "django": django_on_postgresql,
}
