"""Making exchanges and queues, and saying what is wrong with those that are there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from pamqp.base import Frame

from pillarbox.brokers.partitions import two_consumers
from pillarbox.brokers.rabbitmq.channel import (
    ACCESS_REFUSED,
    PRECONDITION_FAILED,
    Channel,
    ChannelClosedError,
)
from pillarbox.brokers.rabbitmq.layout import declarations, exchange_declaration, mark, mark_of
from pillarbox.brokers.rabbitmq.line import Line
from pillarbox.brokers.rabbitmq.wire import NAME, Wire
from pillarbox.channel import Subscription, is_queue
from pillarbox.errors import BrokerUnavailableError, ConfigurationError

_CURRENT: Final = re.compile(r"current is the value '([^']*)'")
OF_NOBODY: Final = ""
MADE_WITHIN_S: Final = 30.0
"""A quorum queue is made by all its nodes together, and there are sixteen of them."""


async def declare(line: Line, subscription: Subscription) -> None:
    """Make the places of ``subscription``; those that are there stay as they are, with all that is bound to them.

    Raises:
        BrokerUnavailableError: the server cannot be reached, or cannot do it now.
        ConfigurationError: something else of that name is there, or the user may not declare.
    """
    for channel in subscription.channels:
        things = [*declarations(channel, subscription.consumer)]
        if is_queue(channel):
            things.append(mark(channel, subscription.consumer))
        try:
            await _make(await line.wire(), things)
        except ChannelClosedError as refusal:
            if mark_of(channel) in refusal.text and (other := _CURRENT.search(refusal.text)):
                raise ConfigurationError(two_consumers(channel, subscription.consumer, other[1])) from refusal
            raise _meaning(refusal) from refusal


async def make_ready(wire: Wire, destination: str) -> None:
    """Make a queue that keeps its messages without a consumer, or a topic's exchange, which returns them.

    Raises:
        BrokerUnavailableError: the server cannot be reached.
        ChannelClosedError: it refuses this one.
        ConfigurationError: its name is too long, and remains so.
    """
    if is_queue(destination):
        await _make(wire, declarations(destination, OF_NOBODY))
    else:
        await _make(wire, [exchange_declaration(destination)])


async def _make(wire: Wire, things: Iterable[Frame]) -> None:
    channel = Channel(wire)
    try:
        await channel.ask(*things, within_s=MADE_WITHIN_S)
    finally:
        channel.leave()


def _meaning(refusal: ChannelClosedError) -> Exception:
    if refusal.code == PRECONDITION_FAILED:
        return ConfigurationError(
            f"RabbitMQ has something else by that name: {refusal.text}; delete it once it is empty, or give the "
            "channel or the consumer another name"
        )
    if refusal.code == ACCESS_REFUSED:
        return ConfigurationError(
            f"RabbitMQ lets its user not declare: {refusal.text}; grant configure, write and read"
        )
    return BrokerUnavailableError(broker=NAME, reason=str(refusal))  # such as a queue whose leader is away
