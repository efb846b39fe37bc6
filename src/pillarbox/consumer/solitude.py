"""Room in one process: most runs share it, a suspect has it to itself.

A message is blamed for a crash only if nothing else can have caused it. So while a message is tried alone, this process
calls no other handler, of whichever consumer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager


class Solitude:
    """A lock of two kinds; who wants to be alone goes before those who come later."""

    def __init__(self) -> None:
        """Begin with an empty room."""
        self._inside = 0
        self._alone = False
        self._wanted = 0
        self._change = asyncio.Event()
        self._sharing = _Sharing(self)

    def shared(self) -> AbstractAsyncContextManager[None]:
        """Enter beside others, unless somebody is alone or waits to be."""
        return self._sharing

    async def enter(self) -> None:
        """Wait until nobody is alone or waits to be, and be one of those inside."""
        while self._alone or self._wanted:
            await self._change.wait()
        self._inside += 1

    def leave(self) -> None:
        """Be inside no more."""
        self._inside -= 1
        if self._wanted:
            self._changed()

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Wait until everybody has left, and keep others out for as long as the block lasts."""
        self._wanted += 1
        try:
            while self._alone or self._inside:
                await self._change.wait()
            self._alone = True
        finally:
            self._wanted -= 1
            self._changed()
        try:
            yield
        finally:
            self._alone = False
            self._changed()

    def _changed(self) -> None:
        """Have everybody who waits look again."""
        self._change.set()
        self._change = asyncio.Event()


class _Sharing(AbstractAsyncContextManager[None]):
    """Being inside beside others; it keeps nothing, so one is enough for all."""

    def __init__(self, room: Solitude) -> None:
        self._room = room

    async def __aenter__(self) -> None:
        await self._room.enter()

    async def __aexit__(self, *_: object) -> None:
        self._room.leave()
