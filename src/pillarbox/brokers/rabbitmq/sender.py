"""The sending end: a batch goes out as a whole, and the server's word on each of its messages is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from pamqp import commands

from pillarbox.brokers.partitions import partition_of
from pillarbox.brokers.rabbitmq.channel import Channel, ChannelClosedError
from pillarbox.brokers.rabbitmq.confirms import NOT_SENT, Batch
from pillarbox.brokers.rabbitmq.declaring import make_ready
from pillarbox.brokers.rabbitmq.envelope import pack
from pillarbox.brokers.rabbitmq.layout import routing_key_of
from pillarbox.brokers.rabbitmq.line import Line
from pillarbox.brokers.rabbitmq.wire import NAME, Wire
from pillarbox.channel import BrokerCapabilities, MessageSender, NotReady, Refused, SendResult, Unavailable
from pillarbox.errors import BrokerUnavailableError, ConfigurationError
from pillarbox.message import Message

CAPABILITIES: Final = BrokerCapabilities(ordered_prefix=False, key_affinity=True, durable=True, transactional=False)
PROBES_SHARE: Final = 8
"""The part of a batch's time that is spent on finding out whether the server answers at all."""
AT_ONCE_BYTES: Final = 4 << 20
"""More than this goes out only when what was before it has left."""


class RabbitMqSender(MessageSender):
    """Publishes persistently, with a confirm for each message; what no queue takes is returned."""

    def __init__(self, line: Line, *, within: timedelta) -> None:
        """Send through ``line``; a batch has its results ``within`` this time and a little more.

        A caller that waits longer learns what was confirmed although something else was not.
        """
        self._line = line
        self._within_s = within.total_seconds()
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()

    @property
    def capabilities(self) -> BrokerCapabilities:
        return CAPABILITIES

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        if not messages:
            return ()
        batch = Batch(messages, [NOT_SENT] * len(messages))
        try:
            channel = await self._open()
            await self._send(channel, batch)
        except BrokerUnavailableError as error:
            unavailable = Unavailable(error.reason)
            return [unavailable if result is NOT_SENT else result for result in batch.results]
        return batch.results

    async def _open(self) -> Channel:
        """Return a channel that confirms.

        Raises:
            BrokerUnavailableError: the server cannot be reached, or takes nothing now.
        """
        async with self._opening:
            if self._channel is None or self._channel.closed is not None:
                channel = Channel(await self._line.wire())
                try:
                    await channel.ask(commands.Confirm.Select())
                except ChannelClosedError as refusal:
                    raise BrokerUnavailableError(broker=NAME, reason=str(refusal)) from refusal
                except BaseException:
                    channel.leave()
                    raise
                self._channel = channel
            if self._channel.wire.blocked is not None:
                raise BrokerUnavailableError(broker=NAME, reason=f"it takes nothing: {self._channel.wire.blocked}")
            return self._channel

    async def _send(self, channel: Channel, batch: Batch) -> None:
        until = asyncio.get_running_loop().time() + self._within_s
        closed = await self._make_ready(channel, {message.destination for message in batch.messages}, until)
        waiting = 0
        for place, message in enumerate(batch.messages):
            if (result := closed.get(message.destination)) is not None:
                batch.results[place] = result
                continue
            try:
                packed = pack(message, frame_max=channel.wire.frame_max)
            except ValueError as error:
                batch.results[place] = Refused(str(error))
                continue
            routing_key = routing_key_of(partition_of(message))
            waiting += channel.publish(batch, place, packed, exchange=message.destination, routing_key=routing_key)
            if waiting > AT_ONCE_BYTES:
                await channel.wire.drain()
                waiting = 0
        await self._settled(channel, batch, until)

    async def _make_ready(self, channel: Channel, destinations: set[str], until: float) -> dict[str, SendResult]:
        """Make the destinations that this connection has not made yet; return those that cannot be made, and why."""
        closed: dict[str, SendResult] = {}
        for destination in destinations - channel.known:
            try:
                async with asyncio.timeout_at(until):
                    await make_ready(channel.wire, destination)
            except TimeoutError:
                closed[destination] = NotReady(f"{destination} is still being made")
            except ChannelClosedError as refusal:
                closed[destination] = NotReady(str(refusal))
            except ConfigurationError as error:
                closed[destination] = Refused(str(error))
            else:
                channel.known.add(destination)
        return closed

    async def _settled(self, channel: Channel, batch: Batch, until: float) -> None:
        """Wait for the server's word on all that was sent.

        A server that answers, and yet says nothing about a message, has a queue without a leader: its destination is
        not ready, and the others go on. Of what a silent server was sent nothing is known.
        """
        if not batch.left:
            return
        batch.settled = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout_at(until):
                await batch.settled
        except TimeoutError:
            if await self._answers(channel.wire):
                channel.confirms.leave_open(batch)

    async def _answers(self, wire: Wire) -> bool:
        probe = Channel(wire)
        try:
            async with asyncio.timeout(self._within_s / PROBES_SHARE):
                await probe.ask()
        except (TimeoutError, BrokerUnavailableError):
            return False
        finally:
            probe.leave()
        return True
