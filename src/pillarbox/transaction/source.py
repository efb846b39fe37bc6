"""The port from which Pillarbox takes transactions of its own."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.transaction.program import Program
from pillarbox.transaction.transaction import SyncTransaction, Transaction

T = TypeVar("T")


class OpenTransaction(Transaction, Protocol):
    """A transaction that Pillarbox began, with the connection that handlers may ask for."""

    @property
    @abstractmethod
    def connection(self) -> AsyncConnection:
        """The connection; whoever began the transaction commits it."""


class OpenSyncTransaction(SyncTransaction, Protocol):
    """The twin of ``OpenTransaction`` for handlers that run in a thread."""

    @property
    @abstractmethod
    def connection(self) -> Connection:
        """The connection; whoever began the transaction commits it."""


class TransactionSource(Protocol):
    """Where transactions begin: one database, reached asynchronously or from a thread."""

    @abstractmethod
    def begin(self) -> AbstractAsyncContextManager[OpenTransaction]:
        """Begin a transaction; leaving the block commits, an exception rolls back."""

    @abstractmethod
    def begin_briefly(self) -> AbstractAsyncContextManager[OpenTransaction]:
        """As ``begin``, where programs follow each other at once: a frozen process keeps its locks only for a while."""

    @abstractmethod
    def begin_sync(self) -> AbstractContextManager[OpenSyncTransaction]:
        """Begin a transaction in the calling thread; leaving the block commits, an exception rolls back."""

    def begin_shared(self) -> AbstractAsyncContextManager[OpenTransaction]:
        """As ``begin``, for several pieces of work whose code is not ours: it commits all that was done, or nothing.

        Raises:
            ConflictError: the database has rolled back what was done so far, and somebody has swallowed that error.
        """
        return self.begin()

    def begin_shared_sync(self) -> AbstractContextManager[OpenSyncTransaction]:
        """As ``begin_shared``, in the calling thread."""
        return self.begin_sync()

    @abstractmethod
    async def run(self, program: Program[T]) -> T:
        """Run ``program`` in a short transaction of its own and return its result."""

    @abstractmethod
    def translate(self, error: Exception) -> Exception:
        """Return the library's error for a driver's, where it means a conflict or an absent server; else ``error``."""

    @abstractmethod
    async def run_single(self, program: Program[T]) -> T:
        """Run a program that consists of a single statement, committed by itself: one round trip."""
