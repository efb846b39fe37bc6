"""One connection to a RabbitMQ: bytes to frames, frames to channels, and whether the other side still lives.

It tries nothing a second time: once it is lost it is of no use any more, and whoever needs one makes a new one.
"""

from __future__ import annotations

import asyncio
import struct
from asyncio import Protocol as StreamProtocol
from collections.abc import Awaitable, Mapping
from typing import Any, Final, Protocol

from pamqp import commands
from pamqp.base import Frame
from pamqp.common import FieldTable

from pillarbox.brokers.rabbitmq import frames
from pillarbox.brokers.rabbitmq.address import Address
from pillarbox.errors import BrokerUnavailableError

NAME: Final = "rabbitmq"
ANSWER_WITHIN_S: Final = 5.0
SILENT_BEATS: Final = 4
SPARE_CHANNELS: Final = 256
"""What one receiver opens at once, and more."""
_head = struct.Struct(">BHI")
_HEAD_BYTES: Final = 7
_OK: Final = 200
_CAPABILITIES: Final[FieldTable] = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}


class Receiving(Protocol):
    """A channel, as its connection sees it."""

    def take(self, kind: int, payload: bytes) -> None:
        """Take a frame."""
        ...

    def lose(self, reason: str) -> None:
        """Learn that the connection is lost."""
        ...


class Wire(StreamProtocol):
    """A connection; its channels are numbered from 1."""

    def __init__(self, *, heartbeat_s: int) -> None:
        """Give the other side up when it was silent for twice ``heartbeat_s``; connected by ``connect``."""
        self.channels: dict[int, Receiving] = {}
        self.lost: str | None = None
        self.blocked: str | None = None
        self.server: Mapping[str, Any] = {}
        self.frame_max, self.channel_max = 131_072, 2047
        self._heartbeat_s = heartbeat_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[Frame] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._gone = asyncio.Event()
        self._silent_beats = 0
        self._beating: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """Whether channels should be opened on another connection."""
        return len(self.channels) + SPARE_CHANNELS > self.channel_max

    def write(self, data: bytes) -> None:
        """Send bytes; they are lost when the connection is."""
        if self._transport is not None and self.lost is None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until what was written has mostly left, or the connection is lost."""
        await self._room.wait()

    def abort(self, reason: str) -> None:
        """End the connection now, without a word."""
        self._lose(reason)
        if self._transport is not None:
            self._transport.abort()

    async def greet(self, address: Address) -> None:
        """Identify and open the virtual host.

        Raises:
            BrokerUnavailableError: the server refused, or speaks something else.
        """
        start = await self._ask(frames.GREETING)
        if not isinstance(start, commands.Connection.Start):
            raise BrokerUnavailableError(broker=NAME, reason=f"it greets with {start.name}")
        self.server = start.server_properties or {}
        login = commands.Connection.StartOk(
            client_properties={"product": "pillarbox", "capabilities": _CAPABILITIES},
            mechanism="PLAIN",
            response=f"\0{address.user}\0{address.password}",
        )
        tune = await self._ask(frames.method_frame(login, 0))
        if not isinstance(tune, commands.Connection.Tune):
            raise BrokerUnavailableError(broker=NAME, reason=f"it answers a login with {tune.name}")
        self.frame_max = tune.frame_max or self.frame_max
        self.channel_max = tune.channel_max or self.channel_max
        agreed = commands.Connection.TuneOk(
            channel_max=self.channel_max, frame_max=self.frame_max, heartbeat=self._heartbeat_s
        )
        opening = commands.Connection.Open(virtual_host=address.virtual_host)
        await self._ask(frames.method_frame(agreed, 0) + frames.method_frame(opening, 0))
        self._beat()

    async def close(self) -> None:
        """Say good-bye, wait for the answer for a while, and end the connection."""
        if self.lost is None:
            goodbye = commands.Connection.Close(reply_code=_OK, reply_text="", class_id=0, method_id=0)
            self.write(frames.method_frame(goodbye, 0))
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    await self._gone.wait()
            except TimeoutError:
                pass  # it is ended either way
        self.abort("it was closed")

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc) if exc else "the server ended the connection")

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def data_received(self, data: bytes) -> None:
        self._silent_beats = 0
        buffer = self._buffer
        buffer += data
        at, filled = 0, len(buffer)
        while filled - at > _HEAD_BYTES:
            kind, number, size = _head.unpack_from(buffer, at)
            end = at + _HEAD_BYTES + size
            if filled <= end:
                break
            payload = bytes(buffer[at + _HEAD_BYTES : end])
            at = end + 1
            if buffer[end] != frames.END_BYTE:
                self.abort("it does not speak AMQP 0-9-1")
                return
            self._dispatch(kind, number, payload)
        del buffer[:at]

    def _dispatch(self, kind: int, number: int, payload: bytes) -> None:
        if number:
            channel = self.channels.get(number)
            if channel is not None:
                channel.take(kind, payload)
        elif kind == frames.METHOD:
            self._take(frames.read_method(payload))

    def _take(self, method: Frame) -> None:
        if isinstance(method, commands.Connection.Close):
            self.write(frames.method_frame(commands.Connection.CloseOk(), 0))
            self.abort(f"it closed the connection: {method.reply_code} {method.reply_text}")
        elif isinstance(method, commands.Connection.CloseOk):
            self.abort("it was closed")
        elif isinstance(method, commands.Connection.Blocked):
            self.blocked = method.reason or "for want of memory or disk"
        elif isinstance(method, commands.Connection.Unblocked):
            self.blocked = None
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(method)

    def _ask(self, data: bytes) -> Awaitable[Frame]:
        self._answer = self._loop.create_future()
        if self.lost is not None:
            self._answer.set_exception(BrokerUnavailableError(broker=NAME, reason=self.lost))
        self.write(data)
        return self._answer

    def _beat(self) -> None:
        """Send a sign of life twice in the time agreed upon; count instead of reading a clock.

        So an event loop that was busy for long reads what came meanwhile, before it takes the server for silent.
        """
        if self.lost is not None:
            return
        self._silent_beats += 1
        if self._silent_beats > SILENT_BEATS:
            self.abort(f"it was silent for {2 * self._heartbeat_s} s")
            return
        self.write(frames.HEARTBEAT_FRAME)
        self._beating = self._loop.call_later(self._heartbeat_s / 2, self._beat)

    def _lose(self, reason: str) -> None:
        if self.lost is not None:
            return
        self.lost = reason
        self._room.set()
        self._gone.set()
        if self._beating is not None:
            self._beating.cancel()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BrokerUnavailableError(broker=NAME, reason=reason))
        channels, self.channels = self.channels, {}
        for channel in channels.values():
            channel.lose(reason)


async def connect(address: Address, *, heartbeat_s: int) -> Wire:
    """Connect and log in.

    Raises:
        BrokerUnavailableError: it cannot be reached, gave no answer in time, or refused.
    """
    loop, wire = asyncio.get_running_loop(), Wire(heartbeat_s=heartbeat_s)
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await loop.create_connection(lambda: wire, address.host, address.port, ssl=address.tls)
            await wire.greet(address)
    except (OSError, TimeoutError) as error:  # BrokerUnavailableError is an OSError as well
        wire.abort("it could not be opened")
        if isinstance(error, BrokerUnavailableError):
            raise
        raise BrokerUnavailableError(broker=NAME, reason=str(error) or "no answer in time") from error
    except BaseException:
        wire.abort("it was not waited for")
        raise
    return wire
