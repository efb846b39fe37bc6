"""Where messages lie in Redis: names of keys, and which stream a message goes to.

The part in braces is what Redis Cluster hashes, so that a channel's keys lie on one node and one script reaches them.
"""

from __future__ import annotations

from typing import Final

from pillarbox.message import Message
from pillarbox.outbox import bucket_for

PARTITIONS: Final = 16
"""Streams of a channel, and so the most instances of a consumer that work at the same time."""


def streams_of(channel: str) -> list[str]:
    """Return the streams of ``channel`` by their partitions."""
    return [f"pillarbox:{{{channel}}}:{partition}" for partition in range(PARTITIONS)]


def groups_of(channel: str) -> str:
    """Return the key of the set that holds the names of the consumers of ``channel``."""
    return f"pillarbox:{{{channel}}}:groups"


def partition_of(message: Message) -> int:
    """Return where a message goes: all of a key to one place, those without a key anywhere."""
    return bucket_for(message.destination, message.key, message_id=message.id) % PARTITIONS
