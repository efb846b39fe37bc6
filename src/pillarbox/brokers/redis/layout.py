"""Where messages lie in Redis: names of keys, and which stream a message goes to.

The part in braces is what Redis Cluster hashes, so that a channel's keys lie on one node and one script reaches them.
"""

from __future__ import annotations

from pillarbox.brokers.partitions import PARTITIONS


def stream_of(channel: str, partition: int) -> str:
    """Return the stream of a partition of ``channel``."""
    return f"pillarbox:{{{channel}}}:{partition}"


def streams_of(channel: str) -> list[str]:
    """Return the streams of ``channel`` by their partitions."""
    return [stream_of(channel, partition) for partition in range(PARTITIONS)]


def groups_of(channel: str) -> str:
    """Return the key of the set that holds the names of the consumers of ``channel``."""
    return f"pillarbox:{{{channel}}}:groups"
