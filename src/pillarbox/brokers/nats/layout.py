"""Where messages lie in NATS: names of streams, subjects and durable consumers."""

from __future__ import annotations

from typing import Final

from pillarbox.brokers.partitions import PARTITIONS

_IN_NAMES: Final = str.maketrans({".": "=", "/": "~"})
"""What our names may hold and names of streams and consumers may not; what stands for it is in none of our names."""


def stream_of(channel: str) -> str:
    """Return the stream of ``channel``."""
    return channel.translate(_IN_NAMES)


def channel_of(stream: str) -> str:
    """Return the channel whose stream ``stream`` is."""
    return stream.replace("=", ".")


def subject_of(channel: str, partition: int | str) -> str:
    """Return the subject of a partition of ``channel``: ``topic.order.7``."""
    return f"{channel.replace(':', '.', 1)}.{partition}"


def subjects_of(channel: str) -> list[str]:
    """Return the subjects of ``channel`` by their partitions."""
    return [subject_of(channel, partition) for partition in range(PARTITIONS)]


def durable_of(consumer: str, partition: int) -> str:
    """Return the durable consumer by which ``consumer`` gets a partition of a channel."""
    return f"{consumer.translate(_IN_NAMES)}-{partition}"


def consumer_of(durable: str) -> str:
    """Return whose durable consumer ``durable`` is."""
    return durable.rpartition("-")[0].replace("=", ".").replace("~", "/")


def place_in(durable: str) -> int | None:
    """Return the partition that one of our durable consumers gets; ``None`` for a consumer of somebody else."""
    owner, _, number = durable.rpartition("-")
    is_ours = _IN_NAMES[ord("/")] in owner and number.isdecimal() and int(number) < PARTITIONS
    return int(number) if is_ours else None
