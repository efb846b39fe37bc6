"""Databases that fall silent: a connection that gives no answer in time is given up, and whoever waited goes on.

A firewall that forgets a connection, or a server that is frozen, tells nobody; TCP would wait for a quarter of an hour.
The wait is ended by ending the connection, since some drivers do not let go of a statement that is only cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
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

    @asynccontextmanager
    async def for_answer(self, connection: AsyncConnection) -> AsyncGenerator[None]:
        """Wait for what is done in the block with ``connection``, and end the connection when it takes too long.

        Raises:
            StoreUnavailableError: it took too long; whether the database did what it was asked is not known.
        """
        inner = connection.sync_connection
        if self.sever is None or inner is None:
            yield
            return
        gave_up = False

        def give_up(sever: Sever, driver: Any) -> None:
            nonlocal gave_up
            gave_up = True
            sever(driver)

        driver = inner.connection.driver_connection
        timer = asyncio.get_running_loop().call_later(self.within.total_seconds(), give_up, self.sever, driver)
        try:
            yield
        except Exception as error:
            if not gave_up:
                raise
            await connection.invalidate()
            raise self.silent() from error
        finally:
            timer.cancel()

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
