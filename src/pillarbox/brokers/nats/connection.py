"""The connection to NATS: made when it is needed, given up when it falls silent, never mended behind our back."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import ConnectionClosedError, NoRespondersError
from nats.errors import Error as NatsError

from pillarbox.errors import BrokerUnavailableError

NAME: Final = "nats"
CONNECT_WITHIN_S: Final = 5
ANSWER_WITHIN_S: Final = 5.0
PING_EVERY_S: Final = 2
"""A server that leaves two pings without an answer is given up."""
AT_ONCE_BYTES: Final = 2 << 20
"""More than this is published only when what was before it is on its way."""
UNLIMITED: Final = -1


@dataclass(slots=True, eq=False)
class Link:
    """One connection, from when it was made to when it was lost.

    Attributes:
        client: nats-py's client, whose own reconnecting is off.
        watchers: are set when the connection is lost.
        leaving: are done when what was published before them is on its way, or the connection is lost.
        hearing: are told what the server says that answers no question: what it forbids, it says so alone.
    """

    client: Any  # its types leave out what its callbacks are
    watchers: set[asyncio.Event] = field(default_factory=set[asyncio.Event])
    leaving: set[asyncio.Future[None]] = field(default_factory=set[asyncio.Future[None]])
    hearing: set[Callable[[str], None]] = field(default_factory=set[Callable[[str], None]])

    @property
    def is_up(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return bool(self.client.is_connected)

    async def publish(self, subject: str, body: bytes, *, reply: str, headers: bytes) -> None:
        """Publish a message whose headers are written already.

        nats-py's own way to write them would cost as much as everything else that a relay does for a message.

        Raises:
            ConnectionClosedError: the connection is lost.
        """
        if not self.is_up:
            raise ConnectionClosedError
        sizes = b"%d %d" % (len(headers), len(headers) + len(body))
        await self.client._send_command(
            b"HPUB %b %b %b\r\n%b%b\r\n" % (subject.encode(), reply.encode(), sizes, headers, body)
        )
        if self.client._flush_queue.empty():
            await self.client._flush_pending()
        if self.client._pending_data_size > AT_ONCE_BYTES:
            await self._leave()

    async def lost(self) -> None:
        """Wake everybody who waits for an answer that will not come."""
        for watcher in self.watchers:
            watcher.set()
        for leaving in self.leaving:
            if not leaving.done():
                leaving.set_result(None)

    async def hear(self, error: Exception) -> None:
        """Pass on what the server says; what other errors mean shows where an answer is waited for."""
        for told in tuple(self.hearing):
            told(str(error))

    async def _leave(self) -> None:
        """Wait until what was published is on its way; nats-py's own way to wait cannot be given up."""
        leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.leaving.add(leaving)
        try:
            await self.client._flush_queue.put(leaving)
            await leaving
        finally:
            self.leaving.discard(leaving)


class NatsConnection:
    """The one connection that both ends of a broker share."""

    def __init__(self, servers: Sequence[str]) -> None:
        """Reach one of ``servers``; connects to nothing."""
        self._servers = list(servers)
        self._link: Link | None = None
        self._connecting = asyncio.Lock()

    async def link(self) -> Link:
        """Return the connection, made anew if it was lost.

        Raises:
            BrokerUnavailableError: no server can be reached.
        """
        async with self._connecting:
            if self._link is None or not self._link.is_up:
                self._link = await self._connect()
            return self._link

    async def request(self, subject: str, payload: bytes) -> bytes:
        """Ask one question and return the answer.

        Raises:
            BrokerUnavailableError: there is no connection, nobody who would answer, or no answer in time.
        """
        link = await self.link()
        try:
            answer = await link.client.request(subject, payload, timeout=ANSWER_WITHIN_S)
        except NoRespondersError as error:
            reason = "nobody answers for JetStream; start nats-server with -js, or wait until its cluster has a leader"
            raise BrokerUnavailableError(broker=NAME, reason=reason) from error
        except (NatsError, OSError, TimeoutError) as error:
            raise unavailable(error) from error
        return bytes(answer.data)

    async def tell(self, subject: str, payload: bytes) -> None:
        """Send what nobody is to answer; whether it arrives shows at the next request.

        Raises:
            BrokerUnavailableError: there is no connection.
        """
        link = await self.link()
        try:
            await link.client.publish(subject, payload)
        except (NatsError, OSError) as error:
            raise unavailable(error) from error

    async def close(self) -> None:
        """Disconnect; the next use connects anew."""
        link, self._link = self._link, None
        if link is not None:
            await _end(link.client)

    async def _connect(self) -> Link:
        link = Link(_Client())
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S * (1 + len(self._servers))):
                await link.client.connect(
                    self._servers,
                    name="pillarbox",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=CONNECT_WITHIN_S,
                    ping_interval=PING_EVERY_S,
                    max_outstanding_pings=2,
                    pending_size=UNLIMITED,
                    skip_subject_validation=True,
                    error_cb=link.hear,
                    disconnected_cb=link.lost,
                    closed_cb=link.lost,
                )
        except (NatsError, OSError, TimeoutError, ssl.SSLError) as error:
            await _end(link.client)
            raise unavailable(error) from error
        return link


class _Client(Client):
    """nats-py's client, whose own way to read headers takes a third of a consumer's time."""

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        lines = raw.decode("utf-8", "replace").split("\r\n")
        return {name.strip(): value.strip() for name, colon, value in map(_at_colon, lines) if colon}


def _at_colon(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def unavailable(error: BaseException) -> BrokerUnavailableError:
    """Return the library's error for one of the client's."""
    return BrokerUnavailableError(broker=NAME, reason=str(error) or type(error).__name__)


async def _end(client: Any) -> None:
    try:
        async with asyncio.timeout(1.0):  # what was not written to a silent server never will be
            await client.close()
    except (NatsError, OSError, TimeoutError):
        pass
