"""Addresses of channels: a queue (point-to-point) or a topic (publish-subscribe).

EIP: *Point-to-Point Channel*, *Publish-Subscribe Channel*.
"""

from __future__ import annotations

from dataclasses import dataclass

from pillarbox.errors.values import check_value
from pillarbox.message import parse_destination, queue_destination

QUEUE = "queue:"
TOPIC = "topic:"


def is_queue(address: str) -> bool:
    """Tell whether ``address`` names a queue, whose messages go to one consumer."""
    return address.startswith(QUEUE)


def address_of(channel: str) -> str:
    """Return the address that ``channel`` means: ``express`` is short for ``queue:express``.

    Raises:
        ConfigurationError: it names no channel.
    """
    check_value(channel, str, name="the name of a channel")
    if ":" not in channel:
        return queue_destination(channel)
    parse_destination(channel)
    return channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What one consumer listens to.

    Attributes:
        consumer: the durable identity of the consumer, ``<service>/<name>``; its instances compete.
        channels: the addresses it receives from, such as ``topic:order`` or ``queue:payments``.
    """

    consumer: str
    channels: tuple[str, ...]
