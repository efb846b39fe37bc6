"""The sender against a server that is there and reads nothing any more, as one that is frozen or cut off."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

from pillarbox.brokers.nats import sender as module
from pillarbox.brokers.nats.api import JetStream
from pillarbox.brokers.nats.connection import NatsConnection
from pillarbox.brokers.nats.sender import NatsSender
from pillarbox.channel import NotSent, SendResult, Unknown
from pillarbox.message import Message
from tests.waiting import wait_until

SOON_S = 0.1
pytestmark = pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2),
    reason="a transport of this Python never makes anybody wait who writes (CVE-2024-12254)",
)
INFO = {"server_id": "S", "version": "2.10.0", "proto": 1, "headers": True, "max_payload": 1 << 20}


class FrozenServer(asyncio.Protocol):
    """Greets, and then reads nothing until it is told to."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"INFO %b\r\n" % json.dumps(INFO).encode())

    def data_received(self, data: bytes) -> None:
        if b"PING" in data and self.transport is not None:
            self.transport.write(b"PONG\r\n")
            self.transport.pause_reading()

    def end(self) -> None:
        if self.transport is not None:
            self.transport.abort()


@asynccontextmanager
async def frozen_server() -> AsyncGenerator[tuple[FrozenServer, NatsConnection]]:
    frozen = FrozenServer()
    server = await asyncio.get_running_loop().create_server(lambda: frozen, "127.0.0.1", 0)
    connection = NatsConnection([f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"])
    try:
        yield frozen, connection
    finally:
        frozen.end()
        await connection.close()
        server.close()


def message(number: int) -> Message:
    return Message(
        id=str(number),
        type="t",
        destination="topic:a",
        key=None,
        content_type="text/plain",
        headers={"source": "shop"},
        body=b"x" * 900_000,
    )


LARGE = [message(number) for number in range(20)]


@asynccontextmanager
async def stuck(connection: NatsConnection) -> AsyncGenerator[asyncio.Task[Sequence[SendResult]]]:
    """Have a sender of much that waits until it can go on."""
    link = await connection.link()
    sender = NatsSender(connection, JetStream(connection), replicas=1)
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(sender.send(LARGE))
        await wait_until(lambda: bool(link.leaving))
        yield sending
        await asyncio.wait([sending], timeout=10 * SOON_S)
        assert sending.done()


async def test_whoever_sends_much_to_a_server_that_reads_nothing_learns_that_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", SOON_S)
    async with frozen_server() as (_, connection), stuck(connection) as sending:
        pass

    assert {type(one) for one in sending.result()} == {Unknown, NotSent}


async def test_whoever_sends_much_to_a_server_that_reads_nothing_may_give_up() -> None:
    async with frozen_server() as (_, connection), stuck(connection) as sending:
        sending.cancel()

    assert sending.cancelled()


async def test_whoever_sends_much_learns_at_once_that_the_connection_is_lost() -> None:
    async with frozen_server() as (frozen, connection), stuck(connection) as sending:
        frozen.end()

    assert {type(one) for one in sending.result()} == {Unknown, NotSent}
