"""Where messages lie in RabbitMQ: exchanges, queues and what binds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pamqp import commands
from pamqp.base import Frame

from pillarbox.brokers.partitions import PARTITIONS
from pillarbox.brokers.rabbitmq.frames import LONGEST_SHORT
from pillarbox.channel import is_queue
from pillarbox.errors import ConfigurationError

LONGEST_EXCHANGE: Final = 127
"""In characters, as AMQP has it. Source: AMQP 0-9-1 specification, the domain ``exchange-name``."""
ARGUMENTS: Final[Mapping[str, Any]] = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-overflow": "reject-publish",
    "x-delivery-limit": 1_000_000_000,
}
"""The same for all releases, so that an upgrade declares the queue as it is.

The server never lets two connections read a queue at once. A full queue rejects instead of dropping its oldest. What is
delivered often is not dropped: from RabbitMQ 4.0 on 20 is the limit of queues that name none, and every rebalancing
counts; a message that cannot be handled is the consumer's to put aside, with its reason.
"""


def queue_of(channel: str, consumer: str, partition: int) -> str:
    """Return the queue of a partition: a consumer's own on a topic; a queue's messages belong to nobody yet."""
    return f"{channel}/{partition}" if is_queue(channel) else f"{channel}/{consumer}/{partition}"


def routing_key_of(partition: int) -> str:
    """Return the key by which a channel's exchange finds a partition."""
    return str(partition)


def exchange_declaration(channel: str) -> Frame:
    """Return what makes a channel's exchange, unless it is there.

    Raises:
        ConfigurationError: its name is too long for AMQP.
    """
    if len(channel) > LONGEST_EXCHANGE:
        raise ConfigurationError(
            f"{channel!r} is too long for RabbitMQ: an exchange's name has at most {LONGEST_EXCHANGE} characters; "
            "shorten the name of the channel"
        )
    return commands.Exchange.Declare(exchange=channel, exchange_type="direct", durable=True)


def mark_of(channel: str) -> str:
    """Return the queue, always empty, whose arguments name the one consumer of a queue channel."""
    return f"{channel}/consumer"


def mark(channel: str, consumer: str) -> Frame:
    """Return what makes ``consumer`` the one of a queue channel, or is refused since there is another."""
    names_it = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": consumer}
    return commands.Queue.Declare(queue=mark_of(channel), durable=True, arguments={**ARGUMENTS, **names_it})


def declarations(channel: str, consumer: str) -> Iterator[Frame]:
    """Return what makes a consumer's place on a channel, or a queue itself, unless it is there.

    Raises:
        ConfigurationError: a name would be too long for RabbitMQ.
    """
    yield exchange_declaration(channel)
    for partition in range(PARTITIONS):
        queue = queue_of(channel, consumer, partition)
        if len(queue.encode()) > LONGEST_SHORT:
            raise ConfigurationError(
                f"the queue {queue!r} would have a name of more than {LONGEST_SHORT} bytes, which RabbitMQ does not "
                "take; shorten the names of the channel, the service or the consumer"
            )
        yield commands.Queue.Declare(queue=queue, durable=True, arguments=dict(ARGUMENTS))
        yield commands.Queue.Bind(queue=queue, exchange=channel, routing_key=routing_key_of(partition))
