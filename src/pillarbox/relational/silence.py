"""Databases that fall silent: a connection that gives no answer in time is given up, and whoever waited goes on.

A firewall that forgets a connection, or a server that is frozen, tells nobody; TCP would wait for a quarter of an hour.
The wait is ended by ending the connection, since some drivers do not let go of a statement that is only cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.errors import StoreUnavailableError

ANSWER_WITHIN = timedelta(seconds=30)

Sever: TypeAlias = Callable[[Any], None]
"""Ends a driver's connection at once and without a word to the server; whoever waits for it gets an error."""


@dataclass(slots=True)
class Patience:
    """How long an answer is waited for.

    Attributes:
        store: as errors call the database.
        sever: how a connection of its driver is ended; ``None`` where there is no network that could fall silent.
        within: the longest wait for a whole program, for a commit, or for a connection.
    """

    store: str
    sever: Sever | None
    within: timedelta = field(default=ANSWER_WITHIN)

    def for_answer(self, connection: AsyncConnection) -> AbstractAsyncContextManager[None]:
        """Wait for what is done in the block with ``connection``, and end the connection when it takes too long.

        Raises:
            StoreUnavailableError: it took too long; whether the database did what it was asked is not known.
        """
        return _Answer(connection, self)

    @asynccontextmanager
    async def for_connection(self) -> AsyncGenerator[None]:
        """Wait for what is done in the block, which connects.

        Raises:
            StoreUnavailableError: it took too long.
        """
        try:
            async with asyncio.timeout(None if self.sever is None else self.within.total_seconds()):
                yield
        except TimeoutError:
            raise self.silent() from None

    def silent(self) -> StoreUnavailableError:
        """Return the error of a database that gave no answer."""
        return StoreUnavailableError(store=self.store, reason=f"no answer within {self.within.total_seconds():g} s")


class _Answer(AbstractAsyncContextManager[None]):
    """The wait for an answer; a class, since there is one for every statement or two."""

    __slots__ = ("_connection", "_gave_up", "_patience", "_timer")

    def __init__(self, connection: AsyncConnection, patience: Patience) -> None:
        self._connection = connection
        self._patience = patience
        self._timer: asyncio.TimerHandle | None = None
        self._gave_up = False

    async def __aenter__(self) -> None:
        inner, sever = self._connection.sync_connection, self._patience.sever
        if sever is not None and inner is not None:
            driver, within = inner.connection.driver_connection, self._patience.within.total_seconds()
            self._timer = asyncio.get_running_loop().call_later(within, self._give_up, sever, driver)

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._gave_up and isinstance(error, Exception):
            await self._connection.invalidate()
            raise self._patience.silent() from error

    def _give_up(self, sever: Sever, driver: Any) -> None:
        self._gave_up = True
        sever(driver)
