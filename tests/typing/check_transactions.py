"""Every connection that users hold types as ``tx``, and one of the wrong colour does not; checked, never run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, assert_type

import aiosqlite
import asyncpg
import psycopg
from asyncpg.pool import PoolConnectionProxy
from django.db import connection as django_connection
from django.db.backends.base.base import BaseDatabaseWrapper
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from pillarbox.transaction import (
    AsyncTx,
    Execute,
    Program,
    Rows,
    SyncTransaction,
    SyncTx,
    Transaction,
    adopt,
    adopt_sync,
    drive,
    drive_sync,
)


def counted() -> Program[int]:
    rows = yield Execute(select(text("1")))
    assert_type(rows, Rows)
    return int(rows[0][0])


async def awaited_connections_are_accepted(
    connection: AsyncConnection,
    session: AsyncSession,
    scoped: async_scoped_session[AsyncSession],
    psycopg_connection: psycopg.AsyncConnection[Any],
    asyncpg_connection: asyncpg.Connection,
    lent_by_asyncpg: PoolConnectionProxy,
    aiosqlite_connection: aiosqlite.Connection,
) -> None:
    adopt(connection)
    adopt(session)
    adopt(scoped)
    adopt(psycopg_connection)
    adopt(asyncpg_connection)
    adopt(aiosqlite_connection)
    adopt(lent_by_asyncpg)


def plain_connections_are_accepted(
    connection: Connection,
    session: Session,
    scoped: scoped_session[Session],
    psycopg_connection: psycopg.Connection[Any],
    sqlite_connection: sqlite3.Connection,
    wrapper: BaseDatabaseWrapper,
) -> None:
    adopt_sync(connection)
    adopt_sync(session)
    adopt_sync(scoped)
    adopt_sync(psycopg_connection)
    adopt_sync(sqlite_connection)
    adopt_sync(wrapper)
    adopt_sync(django_connection)


def the_wrong_colour_is_refused(
    connection: Connection,
    async_connection: AsyncConnection,
    session: Session,
    async_session: AsyncSession,
    psycopg_connection: psycopg.Connection[Any],
    async_psycopg_connection: psycopg.AsyncConnection[Any],
    sqlite_connection: sqlite3.Connection,
    aiosqlite_connection: aiosqlite.Connection,
) -> None:
    adopt(connection)  # type: ignore[arg-type]
    adopt(session)  # type: ignore[arg-type]
    adopt(psycopg_connection)  # type: ignore[arg-type]
    adopt(sqlite_connection)  # type: ignore[arg-type]
    adopt_sync(async_connection)  # type: ignore[arg-type]
    adopt_sync(async_session)  # type: ignore[arg-type]
    adopt_sync(async_psycopg_connection)  # type: ignore[arg-type]
    adopt_sync(aiosqlite_connection)  # type: ignore[arg-type]


def what_is_no_connection_is_refused(engine: Engine, async_engine: AsyncEngine) -> None:
    adopt(async_engine)  # type: ignore[arg-type]
    adopt("sqlite://")  # type: ignore[arg-type]
    adopt(None)  # type: ignore[arg-type]
    adopt_sync(engine)  # type: ignore[arg-type]
    adopt_sync("sqlite://")  # type: ignore[arg-type]
    adopt_sync(None)  # type: ignore[arg-type]


async def a_program_keeps_the_type_of_its_result(
    tx: AsyncTx, sync_tx: SyncTx, execute: Callable[[Execute], Awaitable[Rows]], execute_sync: Callable[[Execute], Rows]
) -> None:
    assert_type(adopt(tx), Transaction)
    assert_type(adopt_sync(sync_tx), SyncTransaction)
    assert_type(await adopt(tx).run(counted()), int)
    assert_type(adopt_sync(sync_tx).run(counted()), int)
    assert_type(await drive(counted(), execute), int)
    assert_type(drive_sync(counted(), execute_sync), int)
    assert_type(adopt(tx).dialect_name, str)
