"""A batch to a server that makes everything, and confirms every message, at once."""

from __future__ import annotations

import asyncio
import struct
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest
from pamqp import commands

from pillarbox.brokers.rabbitmq import frames
from pillarbox.brokers.rabbitmq.declaring import declare
from pillarbox.brokers.rabbitmq.sender import RabbitMqSender
from pillarbox.brokers.rabbitmq.wire import Wire
from pillarbox.channel import Confirmed, Refused, Subscription
from pillarbox.errors import ConfigurationError
from pillarbox.message import Message

if TYPE_CHECKING:
    from pamqp.base import Frame

    from pillarbox.brokers.rabbitmq.line import Line

HEAD = struct.Struct(">BHI")
ANSWERS: dict[str, Frame] = {
    commands.Channel.Open.name: commands.Channel.OpenOk(),
    commands.Channel.Close.name: commands.Channel.CloseOk(),
    commands.Confirm.Select.name: commands.Confirm.SelectOk(),
    commands.Exchange.Declare.name: commands.Exchange.DeclareOk(),
    commands.Queue.Declare.name: commands.Queue.DeclareOk("q", 0, 0),
    commands.Queue.Bind.name: commands.Queue.BindOk(),
}


class WillingServer(asyncio.Transport):
    """Answers each frame that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = Wire(heartbeat_s=10)
        self.wire.connection_made(self)
        self.published = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        rest = bytes(data)
        while rest:
            kind, channel, size = HEAD.unpack_from(rest)
            payload, rest = rest[HEAD.size : HEAD.size + size], rest[HEAD.size + size + 1 :]
            if kind == frames.METHOD:
                asyncio.get_running_loop().call_soon(self._answer, channel, frames.read_method(payload))

    def _answer(self, channel: int, method: Frame) -> None:
        answer = ANSWERS.get(method.name)
        if isinstance(method, commands.Basic.Publish):
            self.published += 1
            answer = commands.Basic.Ack(self.published)
        if answer is not None:
            self.wire.data_received(frames.method_frame(answer, channel))


class OneWire:
    """A line whose one connection is there."""

    def __init__(self) -> None:
        self._server = WillingServer()

    async def wire(self) -> Wire:
        return self._server.wire


def line() -> Line:
    return cast("Line", OneWire())


def message(destination: str) -> Message:
    return Message(
        id=destination,
        type="t",
        destination=destination,
        key=None,
        content_type="text/plain",
        headers={"source": "shop"},
        body=b"x",
    )


@pytest.mark.parametrize("kind", ["topic", "queue"])
async def test_a_name_that_is_too_long_is_refused_and_the_others_are_sent(kind: str) -> None:
    too_long = f"{kind}:{'a' * 150}"

    refused, sent = await RabbitMqSender(line(), within=timedelta(seconds=5)).send(
        [message(too_long), message("topic:order")]
    )

    assert isinstance(refused, Refused)
    assert too_long in refused.reason
    assert "127" in refused.reason
    assert sent == Confirmed()


async def test_a_subscription_to_a_name_that_is_too_long_says_so() -> None:
    subscription = Subscription(consumer="shop/c", channels=(f"topic:{'a' * 150}",))

    with pytest.raises(ConfigurationError, match="127"):
        await declare(line(), subscription)
