"""A connection in replication mode: commands of the replication protocol, without blocking the event loop.

Of the drivers only psycopg speaks it, through ``psycopg.pq``. Source: PostgreSQL, *Streaming Replication Protocol*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from pillarbox.errors import LogBrokenError, PillarboxError, StoreUnavailableError

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

NAME = "PostgreSQL"
COMMAND_WITHIN_S = 20.0
_NO_SUCH_OBJECT, _NOT_IN_STATE, _NO_SUCH_FILE = "42704", "55000", "58P01"
_BROKEN = (_NO_SUCH_OBJECT, _NOT_IN_STATE, _NO_SUCH_FILE)
_OK = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COPY_BOTH)

Row = Sequence[str | None]


class ReplicationConnection:
    """One connection to one database; use it for one thing at a time."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], *, slot: str) -> None:
        """Speak through ``connection``; ``slot`` is named in errors."""
        self._connection = connection
        self.pgconn: PGconn = connection.pgconn
        self.slot = slot

    @classmethod
    async def connect(cls, arguments: Mapping[str, Any], *, slot: str, within_s: float) -> ReplicationConnection:
        """Connect in replication mode.

        Args:
            arguments: as ``psycopg.connect`` takes them.
            slot: which slot the connection is for.
            within_s: how long it may take.

        Raises:
            StoreUnavailableError: the server cannot be reached, or does not let us replicate.
        """
        wanted: dict[str, Any] = {**arguments, "replication": "database", "application_name": f"pillarbox {slot}"}
        try:
            async with asyncio.timeout(within_s):
                connection = await psycopg.AsyncConnection.connect(**wanted, autocommit=True)
        except TimeoutError:
            raise StoreUnavailableError(store=NAME, reason=f"no connection within {within_s:g} s") from None
        except psycopg.Error as error:
            raise StoreUnavailableError(store=NAME, reason=str(error).strip()) from error
        return cls(connection, slot=slot)

    @property
    def server_version(self) -> int:
        """As PostgreSQL counts: 150004 for 15.4."""
        return self.pgconn.server_version

    @property
    def backend_pid(self) -> int:
        """The server's process for this connection."""
        return self.pgconn.backend_pid

    async def execute(self, command: str, *, within_s: float = COMMAND_WITHIN_S) -> list[Row]:
        """Execute one command and return its rows; for one that begins to copy, none.

        Raises:
            LogBrokenError: the slot or the publication is not there, or the log behind it.
            StoreUnavailableError: another connection uses the slot, the server is away, or gave no answer in time.
        """
        self.send(command)
        answer = await self.answer(within_s)
        if answer is None:
            await self.close()
            raise StoreUnavailableError(store=NAME, reason=f"no answer within {within_s:g} s to {command}")
        return answer

    def send(self, command: str) -> None:
        """Send a command whose answer is fetched with ``answer``."""
        try:
            self.pgconn.send_query(command.encode())
        except psycopg.Error as error:
            raise self.translate(error) from error

    async def answer(self, within_s: float) -> list[Row] | None:
        """Wait for the rows of the command that was sent; ``None`` when there is no answer yet."""
        try:
            async with asyncio.timeout(within_s):
                result = await self._result()
        except TimeoutError:
            return None
        except psycopg.Error as error:
            raise self.translate(error) from error
        return _rows(result)

    def refusal(self) -> PillarboxError:
        """Return why the server ended what was under way, as the library's error."""
        result = self.pgconn.get_result()
        if result is None:
            return StoreUnavailableError(store=NAME, reason="the server closed the connection")
        return self._refusal_of(result)

    def translate(self, error: psycopg.Error) -> PillarboxError:
        """Return the library's error for a driver's."""
        return StoreUnavailableError(store=NAME, reason=str(error).strip() or type(error).__name__)

    async def close(self) -> None:
        """Close the connection; the server lets go of the slot soon after."""
        await self._connection.close()

    async def _result(self) -> PGresult:
        loop = asyncio.get_running_loop()
        while self.pgconn.flush():
            await self._ready(loop.add_writer, loop.remove_writer)
        result = await self._next_result()
        if result is None:
            raise psycopg.OperationalError("the server gave no answer")
        if result.status != pq.ExecStatus.COPY_BOTH:  # that one is answered again and again until the copying ends
            while await self._next_result() is not None:
                pass
        if result.status not in _OK:
            raise self._refusal_of(result)
        return result

    async def _next_result(self) -> PGresult | None:
        loop = asyncio.get_running_loop()
        while self.pgconn.is_busy():
            await self._ready(loop.add_reader, loop.remove_reader)
            self.pgconn.consume_input()
        return self.pgconn.get_result()

    def _refusal_of(self, result: PGresult) -> PillarboxError:
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        primary = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"the server closed the connection"
        reason = primary.decode(errors="replace")
        if state in _BROKEN:
            return LogBrokenError(slot=self.slot, reason=reason)
        return StoreUnavailableError(store=NAME, reason=reason)

    async def _ready(self, add: Callable[..., None], remove: Callable[[int], object]) -> None:
        """Wait until the socket can be read, or written."""
        descriptor = self.pgconn.socket
        ready = asyncio.get_running_loop().create_future()
        add(descriptor, _resolve, ready)
        try:
            await ready
        finally:
            remove(descriptor)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _rows(result: PGresult) -> list[Row]:
    return [
        tuple(_text(result.get_value(row, column)) for column in range(result.nfields)) for row in range(result.ntuples)
    ]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
