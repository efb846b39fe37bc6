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


def place_of(channel: str, consumer: str) -> str:
    """Return what its queues begin with: a consumer's own on a topic; a queue's messages belong to nobody yet."""
    return channel if is_queue(channel) else f"{channel}/{consumer}"


def queue_of(channel: str, consumer: str, partition: int) -> str:
    """Return the queue of a partition."""
    return f"{place_of(channel, consumer)}/{partition}"


def dead_of(place: str) -> str:
    """Return the queue to which the server moves what it will not deliver from a place, whatever a policy says."""
    return f"{place}/dead"


def kept_of(place: str) -> str:
    """Return the key under which nothing is bound: what the server removes from a dead queue too, it has to keep."""
    return f"{place}/kept"


def arguments(channel: str, dead_letters: str) -> Mapping[str, Any]:
    """Return the arguments of a queue whose dead letters go through the channel's exchange under a key.

    The server keeps each until the queue of that key has confirmed it. The exchange is the channel's, since the default
    one would demand the right to write to every queue.
    """
    return {
        **ARGUMENTS,
        "x-dead-letter-exchange": channel,
        "x-dead-letter-routing-key": dead_letters,
        "x-dead-letter-strategy": "at-least-once",
    }


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
    names_it = {"x-dead-letter-exchange": channel, "x-dead-letter-routing-key": consumer}
    return commands.Queue.Declare(queue=mark_of(channel), durable=True, arguments={**ARGUMENTS, **names_it})


def declarations(channel: str, consumer: str) -> Iterator[Frame]:
    """Return what makes a consumer's place on a channel, or a queue itself, unless it is there.

    Raises:
        ConfigurationError: a name would be too long for RabbitMQ.
    """
    yield exchange_declaration(channel)
    place = place_of(channel, consumer)
    dead = dead_of(place)
    if len(dead.encode()) > LONGEST_SHORT:
        raise ConfigurationError(
            f"the queue {dead!r} would have a name of more than {LONGEST_SHORT} bytes, which RabbitMQ does not "
            "take; shorten the names of the channel, the service or the consumer"
        )
    yield from _queue(dead, channel, routing_key=dead, dead_letters=kept_of(place))
    for partition in range(PARTITIONS):
        queue, routing_key = queue_of(channel, consumer, partition), routing_key_of(partition)
        yield from _queue(queue, channel, routing_key=routing_key, dead_letters=dead)


def _queue(name: str, channel: str, *, routing_key: str, dead_letters: str) -> Iterator[Frame]:
    yield commands.Queue.Declare(queue=name, durable=True, arguments=dict(arguments(channel, dead_letters)))
    yield commands.Queue.Bind(queue=name, exchange=channel, routing_key=routing_key)
