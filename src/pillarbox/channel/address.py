"""Addresses of channels: a queue (point-to-point) or a topic (publish-subscribe).

EIP: *Point-to-Point Channel*, *Publish-Subscribe Channel*.
"""

from __future__ import annotations

from dataclasses import dataclass

QUEUE = "queue:"
TOPIC = "topic:"


def is_queue(address: str) -> bool:
    """Tell whether ``address`` names a queue, whose messages go to one consumer."""
    return address.startswith(QUEUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What one consumer listens to.

    Attributes:
        consumer: the durable identity of the consumer, ``<service>/<name>``; its instances compete.
        channels: the addresses it receives from, such as ``topic:order`` or ``queue:payments``.
    """

    consumer: str
    channels: tuple[str, ...]
