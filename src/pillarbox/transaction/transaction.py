"""What a program needs of a transaction, and which connections of callers can serve as one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from pillarbox.transaction.program import Program

T = TypeVar("T")


class Transaction(Protocol):
    """An open database transaction that runs programs, awaited.

    It belongs to whoever opened it: running a program neither commits nor rolls it back.
    """

    @property
    @abstractmethod
    def dialect_name(self) -> str:
        """The database spoken here: ``postgresql``, ``sqlite`` or ``mysql`` (MariaDB included)."""

    @abstractmethod
    async def run(self, program: Program[T]) -> T:
        """Execute what ``program`` yields, in this transaction, and return its result.

        An exception of the driver is thrown into the program; what the program does not handle propagates, and the
        transaction stays as the database left it.

        Raises:
            NoTransactionError: There is no transaction to join, or no longer; nothing was executed.
        """


class SyncTransaction(Protocol):
    """An open database transaction that runs programs in the calling thread.

    It belongs to whoever opened it: running a program neither commits nor rolls it back.
    """

    @property
    @abstractmethod
    def dialect_name(self) -> str:
        """The database spoken here: ``postgresql``, ``sqlite`` or ``mysql`` (MariaDB included)."""

    @abstractmethod
    def run(self, program: Program[T]) -> T:
        """Execute what ``program`` yields, in this transaction, and return its result.

        An exception of the driver is thrown into the program; what the program does not handle propagates, and the
        transaction stays as the database left it.

        Raises:
            NoTransactionError: There is no transaction to join, or no longer; nothing was executed.
        """


class AsyncDriverConnection(Protocol):
    """The shape of a psycopg ``AsyncConnection`` and of an aiosqlite ``Connection``."""

    async def commit(self) -> None:
        """Commit; never called by Pillarbox."""

    async def rollback(self) -> None:
        """Roll back; never called by Pillarbox."""


class AsyncpgConnection(Protocol):
    """The shape of an asyncpg ``Connection``."""

    def is_in_transaction(self) -> bool:
        """Tell whether a transaction is open."""
        ...


class AsyncpgPoolConnection(Protocol):
    """The shape of what an asyncpg pool lends: a proxy that takes on the connection's methods at run time."""

    def __getattr__(self, attr: str, /) -> Any:
        """Forward an attribute."""

    def _detach(self) -> Any: ...


class SyncDriverConnection(Protocol):
    """The shape of a psycopg or sqlite3 ``Connection`` and of a Django database wrapper."""

    def commit(self) -> None:
        """Commit; never called by Pillarbox."""

    def rollback(self) -> None:
        """Roll back; never called by Pillarbox."""


class DjangoConnectionProxy(Protocol):
    """The shape of ``django.db.connection``, which forwards every attribute to the thread's own wrapper."""

    def __getattr__(self, item: str, /) -> Any:
        """Forward an attribute."""

    def __contains__(self, key: Any, /) -> bool:
        """Forward a test for membership."""
        ...


AsyncTx: TypeAlias = (
    AsyncConnection
    | AsyncSession
    | async_scoped_session[Any]
    | AsyncDriverConnection
    | AsyncpgConnection
    | AsyncpgPoolConnection
)
"""A caller's open transaction, for the awaited methods."""

SyncTx: TypeAlias = Connection | Session | scoped_session[Any] | SyncDriverConnection | DjangoConnectionProxy
"""A caller's open transaction, for the methods that end in ``_sync``."""
