"""A consumer of which one process works at a time, one message after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pillarbox.consumer.intake import Intake
from pillarbox.consumer.item import Item
from pillarbox.consumer.worker import Handles
from pillarbox.errors import ConflictError, LeaseLostError, TransientError
from pillarbox.transaction import Program

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper, LeaseStore
    from pillarbox.ordering import RunSize


class Tenure:
    """The lease under which this process is the one that works."""

    def __init__(self, keeper: LeaseKeeper, store: LeaseStore) -> None:
        """Hold what ``keeper`` holds."""
        self._keeper = keeper
        self._store = store

    async def is_ours(self) -> bool:
        """Renew the lease, or take it if it is free; while the database is away what we have lasts a while."""
        with suppress(TransientError, ConflictError):
            await self._keeper.keep()
        return bool(self._keeper.tokens)

    async def end(self) -> None:
        """Let another process take over."""
        await self._keeper.leave()

    @property
    def tokens(self) -> Mapping[int, int]:
        """What proves that this process is the one.

        Raises:
            LeaseLostError: it is not, or may not be.
        """
        tokens = self._keeper.tokens
        if not tokens:
            raise LeaseLostError(lease=self._keeper.terms.scope, token=self._keeper.owner)
        return tokens

    def fence(self, tokens: Mapping[int, int]) -> Program[None]:
        """Make sure that nobody has taken over since there were these ``tokens``, and that nobody does meanwhile.

        Raises:
            LeaseLostError: somebody has; the transaction must be rolled back.
        """
        return self._store.fence(self._keeper.terms, tokens)


class FencedIntake(Intake):
    """An intake of the process that works: no run of it commits after another process has taken over.

    One run at a time goes through it, see ``OneAtATime``.
    """

    def __init__(self, inner: Intake, tenure: Tenure) -> None:
        """Do what ``inner`` does, under ``tenure``."""
        self._inner = inner
        self._tenure = tenure
        self._tokens: Mapping[int, int] = {}

    def admit(self, items: Sequence[Item]) -> Program[Sequence[Item]]:
        """Begin under the lease of now."""
        self._tokens = self._tenure.tokens
        return (yield from self._inner.admit(items))

    def retry_later(self, items: Sequence[Item]) -> Program[None]:
        """Do what the inner intake does."""
        return self._inner.retry_later(items)

    def bury(self, items: Sequence[Item]) -> Program[None]:
        """Do what the inner intake does."""
        return self._inner.bury(items)

    def put_behind(self, items: Sequence[Item]) -> Program[None]:
        """Do what the inner intake does."""
        return self._inner.put_behind(items)

    def accept(self, items: Sequence[Item], done: Sequence[Item]) -> Program[None]:
        """Close the run under the lease that it began with, the last thing before the commit."""
        yield from self._inner.accept(items, done)
        yield from self._tenure.fence(self._tokens)


class OneAtATime(Handles):
    """Lets what a channel delivers and what is held take turns."""

    def __init__(self, process: Handles) -> None:
        """Hand everything to ``process``."""
        self._process = process
        self._turn = asyncio.Lock()

    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        """Wait for the turn, then handle."""
        async with self._turn:
            return await self._process.handle(items, intake=intake, size=size)
