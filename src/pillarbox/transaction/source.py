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
    def begin(self, *, shared: bool = False) -> AbstractAsyncContextManager[OpenTransaction]:
        """Begin a transaction; leaving the block commits, an exception rolls back.

        Args:
            shared: several pieces of work are done in it whose code is not ours, and none of them is to be lost.

        Raises:
            ConflictError: on leaving a shared one: the database has rolled back what was done until somebody swallowed
                the error that said so; nothing is committed.
        """

    @abstractmethod
    def begin_briefly(self) -> AbstractAsyncContextManager[Transaction]:
        """As ``begin``, where programs follow each other at once: a frozen process keeps its locks only for a while."""

    @abstractmethod
    def begin_sync(self, *, shared: bool = False) -> AbstractContextManager[OpenSyncTransaction]:
        """Begin a transaction in the calling thread, as ``begin`` does."""

    @abstractmethod
    async def run(self, program: Program[T]) -> T:
        """Run ``program`` in a short transaction of its own and return its result."""

    @abstractmethod
    def translate(self, error: Exception) -> Exception:
        """Return the library's error for a driver's, where it means a conflict or an absent server; else ``error``."""

    @abstractmethod
    async def run_single(self, program: Program[T]) -> T:
        """Run a program that consists of a single statement, committed by itself: one round trip."""
