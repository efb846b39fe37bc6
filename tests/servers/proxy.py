"""A TCP proxy that a test can make deaf, dumb or dead: between a client and a server on this machine."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

CHUNK_BYTES = 1 << 16
TURNS_OF_A_CONNECTION = 8


class Proxy:
    """Forwards connections on ``port`` to a port of this machine, in a thread of its own.

    ``swallow`` accepts and takes what is sent, and lets nothing through in either direction: a black hole, as when a
    host drops off the network. Nobody is told. ``swallow_answers`` is one that goes one way: the server gets and does
    what it is asked, and nothing is heard of it. ``forget`` is a black hole for the connections that are there, and new
    ones work: what a firewall does that has lost its table. ``cut`` ends every connection.
    """

    def __init__(self, to_port: int, *, port: int = 0) -> None:
        """Forward to ``to_port`` from ``port``, or from a free one; serves from ``with`` on."""
        self._to_port = to_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._asking, self._answering = _opened(), _opened()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.accepted = 0
        self.port = port

    def __enter__(self) -> Proxy:
        """Listen on a free port."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every connection, and listen no more."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def swallow(self) -> None:
        """Let nothing through from now on; connections stay open, new ones are accepted."""
        self.swallow_answers()
        self._loop.call_soon_threadsafe(self._asking.clear)

    def swallow_answers(self) -> None:
        """Let nothing through from now on that the server says."""
        self._loop.call_soon_threadsafe(self._answering.clear)

    def forget(self) -> None:
        """Let nothing through on the connections that are there; new ones are served."""
        asyncio.run_coroutine_threadsafe(self._forget(), self._loop).result(10)

    def forward(self) -> None:
        """Let everything through again; what was swallowed is gone with the connections that it was meant for."""
        asyncio.run_coroutine_threadsafe(self._forward(), self._loop).result(10)

    def cut(self) -> None:
        """End every connection at once."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        asking, answering = self._asking, self._answering
        self._writers.add(writer)
        with suppress(OSError, asyncio.CancelledError):  # it is cancelled at the end only
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
            self._writers.add(server_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, server_writer, asking))
                group.create_task(self._pump(server_reader, writer, answering))
            self._writers -= {server_writer}
        writer.close()
        self._writers -= {writer}

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, is_open: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                await is_open.wait()
                target.write(data)
                await target.drain()
        target.close()

    async def _forget(self) -> None:
        self._asking.clear()
        self._answering.clear()
        self._asking, self._answering = _opened(), _opened()

    async def _forward(self) -> None:
        await self._cut()
        self._asking.set()
        self._answering.set()

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        for _ in range(TURNS_OF_A_CONNECTION):  # what was accepted just now becomes a connection, which can be ended
            await asyncio.sleep(0)  # gives its tasks a turn
        await self._forward()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)


def _opened() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
