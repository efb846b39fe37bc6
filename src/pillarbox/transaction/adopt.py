"""Turns whatever connection the caller holds into a transaction that runs programs."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from inspect import iscoroutinefunction
from typing import Any, Final, cast

from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pillarbox.errors import ConfigurationError
from pillarbox.transaction.drivers import (
    AiosqliteTransaction,
    AsyncpgTransaction,
    DjangoTransaction,
    PsycopgTransaction,
    SqliteTransaction,
    SyncPsycopgTransaction,
)
from pillarbox.transaction.sqlalchemy_ import (
    AsyncConnectionTransaction,
    AsyncSessionTransaction,
    ConnectionTransaction,
    SessionTransaction,
)
from pillarbox.transaction.transaction import AsyncTx, SyncTransaction, SyncTx, Transaction


class _Kind(StrEnum):
    ASYNC_CONNECTION = "SQLAlchemy AsyncConnection"
    ASYNC_SESSION = "SQLAlchemy AsyncSession"
    ASYNCPG = "asyncpg Connection"
    ASYNC_PSYCOPG = "psycopg AsyncConnection"
    AIOSQLITE = "aiosqlite Connection"
    CONNECTION = "SQLAlchemy Connection"
    SESSION = "SQLAlchemy Session"
    PSYCOPG = "psycopg Connection"
    SQLITE = "sqlite3 Connection"
    DJANGO = "Django connection"


_ASYNC: Final[dict[_Kind, Callable[[Any], Transaction]]] = {
    _Kind.ASYNC_CONNECTION: AsyncConnectionTransaction,
    _Kind.ASYNC_SESSION: AsyncSessionTransaction,
    _Kind.ASYNCPG: AsyncpgTransaction,
    _Kind.ASYNC_PSYCOPG: PsycopgTransaction,
    _Kind.AIOSQLITE: AiosqliteTransaction,
}
_SYNC: Final[dict[_Kind, Callable[[Any], SyncTransaction]]] = {
    _Kind.CONNECTION: ConnectionTransaction,
    _Kind.SESSION: SessionTransaction,
    _Kind.PSYCOPG: SyncPsycopgTransaction,
    _Kind.SQLITE: SqliteTransaction,
    _Kind.DJANGO: DjangoTransaction,
}
_FACTORIES = (Engine, AsyncEngine, sessionmaker, async_sessionmaker)


def adopt(tx: AsyncTx) -> Transaction:
    """Join the transaction that is open on ``tx``.

    SQLAlchemy and psycopg begin it with the first program, as with any first statement. The caller commits.

    Raises:
        NoTransactionError: The connection is closed, outside a transaction, or commits each statement by itself.
        ConfigurationError: It is no connection that can be joined, or a synchronous one.
    """
    given = _unwrapped(tx)
    kind = _kind(given)
    if kind in _SYNC:
        raise ConfigurationError(
            f"{kind} is synchronous: pass it to the method that ends in _sync (publish_sync, send_sync, "
            "publish_all_sync)"
        )
    if kind is None:
        raise _not_joinable(tx, _ASYNC)
    return _ASYNC[kind](given)


def adopt_sync(tx: SyncTx) -> SyncTransaction:
    """Join the transaction that is open on ``tx``, for use in the calling thread.

    SQLAlchemy and psycopg begin it with the first program, as with any first statement. The caller commits.

    Raises:
        NoTransactionError: The connection is closed, outside a transaction, or commits each statement by itself.
        ConfigurationError: It is no connection that can be joined, or an asynchronous one.
    """
    given = _unwrapped(tx)
    kind = _kind(given)
    if kind in _ASYNC:
        raise ConfigurationError(
            f"{kind} is asynchronous: await the method without _sync (publish, send, publish_all) with it"
        )
    if kind is None:
        raise _not_joinable(tx, _SYNC)
    return _SYNC[kind](given)


def is_synchronous(tx: AsyncTx | SyncTx) -> bool:
    """Tell whether ``tx`` is one for ``adopt_sync``; what cannot be joined at all is left to ``adopt`` to refuse."""
    return _kind(_unwrapped(tx)) in _SYNC


def _unwrapped(tx: Any) -> Any:
    """Return the session behind a scoped one, and the driver's connection behind a pooled one."""
    if isinstance(tx, (scoped_session, async_scoped_session)):
        return cast("Callable[[], Session | AsyncSession]", tx)()
    return tx.driver_connection if isinstance(tx, PoolProxiedConnection) else tx


def _kind(tx: Any) -> _Kind | None:
    match tx:
        case AsyncConnection():
            return _Kind.ASYNC_CONNECTION
        case AsyncSession():
            return _Kind.ASYNC_SESSION
        case Connection():
            return _Kind.CONNECTION
        case Session():
            return _Kind.SESSION
        case _:
            return None if isinstance(tx, _FACTORIES) else _driver_kind(tx)


def _driver_kind(tx: Any) -> _Kind | None:
    """Recognise a driver by the shape of its connection, so that none has to be installed."""
    if hasattr(tx, "is_in_transaction") and hasattr(tx, "fetch"):
        return _Kind.ASYNCPG
    if not hasattr(tx, "commit"):
        return None
    awaited = iscoroutinefunction(tx.commit)
    if hasattr(tx, "pgconn"):
        return _Kind.ASYNC_PSYCOPG if awaited else _Kind.PSYCOPG
    if hasattr(tx, "in_atomic_block"):
        return _Kind.DJANGO
    # looked up on the class: a closed connection answers the attribute with an exception of its own
    if _has(tx, "in_transaction") and _has(tx, "executescript"):
        return _Kind.AIOSQLITE if awaited else _Kind.SQLITE
    return None


def _has(tx: object, name: str) -> bool:
    return hasattr(type(tx), name)


def _not_joinable(tx: object, accepted: dict[_Kind, Any]) -> ConfigurationError:
    name = f"{type(tx).__module__}.{type(tx).__qualname__}"
    if isinstance(tx, _FACTORIES):
        return ConfigurationError(f"{name} is not a transaction: open a connection or a session on it and pass that")
    return ConfigurationError(f"{name} is not a transaction that can be joined; tx= takes: {', '.join(accepted)}")
