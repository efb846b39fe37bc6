"""Channels of one connection: what may still be written on a channel that is closed, whoever closed it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from pamqp import commands
from pamqp.base import Frame

from pillarbox.brokers.rabbitmq import frames
from pillarbox.brokers.rabbitmq.channel import Channel
from pillarbox.brokers.rabbitmq.confirms import NOT_SENT, Batch
from pillarbox.brokers.rabbitmq.wire import Wire
from pillarbox.channel import Unknown
from pillarbox.message import Message


class Written(asyncio.Transport):
    """Keeps what is sent to a server that answers nothing by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data


def connected() -> tuple[Wire, Written]:
    wire, written = Wire(heartbeat_s=10), Written()
    wire.connection_made(written)
    return wire, written


def hear(channel: Channel, method: Frame) -> None:
    """Have the server say something on a channel."""
    channel.wire.data_received(frames.method_frame(method, channel.number))


def is_refused(channel: Channel) -> None:
    hear(channel, commands.Channel.Close(406, "PRECONDITION_FAILED - timed out", 0, 0))


def is_left(channel: Channel) -> None:
    channel.leave()


def loses_its_queue(channel: Channel) -> None:
    hear(channel, commands.Basic.Cancel("consumer"))


CLOSINGS = [is_refused, is_left, loses_its_queue]


@pytest.mark.parametrize("close", CLOSINGS)
async def test_nothing_is_acknowledged_on_a_channel_that_is_closed(close: Callable[[Channel], None]) -> None:
    wire, written = connected()
    channel = Channel(wire)
    close(channel)
    written.data = b""

    channel.acknowledge([(1, True), (3, False)])

    assert written.data == b""


async def test_the_channel_that_has_the_number_of_a_refused_one_is_acknowledged_nothing_but_its_own() -> None:
    wire, written = connected()
    refused = Channel(wire)
    is_refused(refused)
    successor = Channel(wire)
    assert successor.number == refused.number
    written.data = b""

    refused.acknowledge([(2, True)])
    successor.acknowledge([(1, False)])

    assert written.data == frames.ack_frame(successor.number, 1, multiple=False)


@pytest.mark.parametrize("close", CLOSINGS)
async def test_nothing_else_is_written_on_a_channel_that_is_closed(close: Callable[[Channel], None]) -> None:
    wire, written = connected()
    channel = Channel(wire)
    close(channel)
    written.data = b""
    message = Message(id="1", type="t", destination="topic:a", key=None, content_type="", headers={}, body=b"x")
    batch = Batch([message], [NOT_SENT])

    answer = channel.put(commands.Basic.Consume(queue="q"))
    channel.publish(batch, 0, b"", exchange="topic:a", routing_key="0")
    channel.leave()

    assert answer.exception() is channel.closed
    assert [type(one) for one in batch.results] == [Unknown]
    assert written.data == b""
