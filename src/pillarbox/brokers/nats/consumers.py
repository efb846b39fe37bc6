"""Streams and durable consumers: how they are made, what of them must not differ, what is removed once all have it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from pillarbox.brokers.nats.api import Consumer, JetStream, Refusal, refused
from pillarbox.brokers.nats.layout import consumer_of, durable_of, stream_of, subject_of, subjects_of
from pillarbox.brokers.partitions import PARTITIONS, two_consumers
from pillarbox.channel import Subscription, is_queue
from pillarbox.errors import ConfigurationError

logger = logging.getLogger("pillarbox.brokers.nats")

ACK_WAIT_S: Final = 60
MOST_PENDING: Final = 1000
NANOSECONDS: Final = 1_000_000_000
NONE_KNOWN: Final[Mapping[tuple[str, str], Iterable[int]]] = MappingProxyType({})
OVERLAP: Final = "subjects overlap"
"""The server's words about a stream whose subjects another has already."""
STREAM: Final[Mapping[str, Any]] = {
    "retention": "limits",
    "storage": "file",
    "discard": "new",
    "max_msgs": -1,
    "max_msgs_per_subject": -1,
    "max_bytes": -1,
    "max_age": 0,
    "deny_purge": False,
    "no_ack": False,
}
"""How a channel keeps its messages: all of them, until every consumer has them behind itself, and says so."""
LATER: Final[Mapping[str, Any]] = {"persist_mode": "default"}
"""What only newer servers know of, and have by default: a message is written before it is confirmed (NATS 2.12)."""
CONSUMER: Final[Mapping[str, Any]] = {
    "ack_policy": "explicit",
    "max_deliver": -1,
    "headers_only": False,
    "max_batch": 0,
    "max_expires": 0,
    "inactive_threshold": 0,
}
"""What makes a consumer give up nothing, stay, and have what it is asked for: whole messages, so many and so long."""


async def make_stream(jetstream: JetStream, channel: str, *, replicas: int) -> None:
    """Make the stream of ``channel`` if there is none; tell how one that is there differs.

    Raises:
        BrokerUnavailableError: the server cannot be reached, or would not.
        ConfigurationError: the stream is there and does not take the channel's messages.
    """
    name, subject = stream_of(channel), subject_of(channel, "*")
    try:
        found = await jetstream.stream(name)
        if found is None:
            config = {**STREAM, "name": name, "subjects": [subject], "num_replicas": replicas}
            await jetstream.ask(f"STREAM.CREATE.{name}", **config)
            return
    except Refusal as refusal:
        if OVERLAP in refusal.reason:
            raise ConfigurationError(
                f"another stream takes {subject} already, so there can be no stream {name}; narrow the subjects of the "
                "stream that has them, or remove it"
            ) from refusal
        raise refused(refusal, what=f"stream {name}") from refusal
    if subject not in found["config"].get("subjects", ()):
        raise ConfigurationError(
            f"the stream {name} is there and does not take {subject}; add it to the stream's subjects, or remove the "
            "stream so that it is made as it must be"
        )
    wanted = {**STREAM, **LATER}
    for setting, is_now in drift(wanted, found["config"]).items():
        logger.warning("the stream %s has %s=%r; %r keeps every message", name, setting, is_now, wanted[setting])


def drift(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of ``found`` is not as wanted; what it does not say is as it is by default."""
    return {name: found[name] for name, value in wanted.items() if name in found and found[name] != value}


def consumer_config(channel: str, partition: int) -> dict[str, Any]:
    """Return what must not differ about a consumer of a partition."""
    return {**CONSUMER, "filter_subject": subject_of(channel, partition)}


async def declare(jetstream: JetStream, subscription: Subscription, *, replicas: int, anew: bool = False) -> None:
    """Make the streams of ``subscription`` and its durable consumers; those that are there stay as they are.

    A queue's consumer begins with all that waits in it, a topic's with what comes from now on. With all that is there
    begin, too: the first consumer of a topic, since what came after the stream was made has been confirmed and nobody
    else has it; one that has other partitions of it already; and ``anew``, after a server forgot them, any.

    Raises:
        BrokerUnavailableError: the server cannot be reached, or would not.
        ConfigurationError: a stream is there and does not take its channel's messages, or a queue has another
            consumer already.
    """
    for channel in subscription.channels:
        await make_stream(jetstream, channel, replicas=replicas)
        found = await _consumers(jetstream, channel)
        if is_queue(channel):
            _check_alone(found, channel, subscription.consumer)
        try:
            async with asyncio.TaskGroup() as group:
                for partition in range(PARTITIONS):
                    is_new = _is_heard(found, channel, partition) and subscription.consumer not in _parted(
                        found, channel
                    )
                    begin = "new" if is_new and not anew and not is_queue(channel) else "all"
                    group.create_task(_make_consumer(jetstream, channel, subscription.consumer, partition, begin))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors


async def _consumers(jetstream: JetStream, channel: str) -> Sequence[Consumer]:
    try:
        return await jetstream.consumers(stream_of(channel))
    except Refusal as refusal:
        raise refused(refusal, what=f"consumers of {stream_of(channel)}") from refusal


def _check_alone(found: Sequence[Consumer], channel: str, consumer: str) -> None:
    ours = {durable_of(consumer, partition) for partition in range(PARTITIONS)}
    others = {consumer_of(one.name) for one in found if one.name not in ours}
    if others:
        raise ConfigurationError(two_consumers(channel, consumer, *others))


async def _make_consumer(jetstream: JetStream, channel: str, consumer: str, partition: int, begin: str) -> None:
    stream, name = stream_of(channel), durable_of(consumer, partition)
    wanted = consumer_config(channel, partition)
    try:
        found = await jetstream.consumer(stream, name)
        if found is None:
            config = {
                **wanted,
                "durable_name": name,
                "deliver_policy": begin,
                "ack_wait": ACK_WAIT_S * NANOSECONDS,
                "max_ack_pending": MOST_PENDING,
            }
            await _create_consumer(jetstream, stream, name, config)
            return
    except Refusal as refusal:
        raise refused(refusal, what=f"consumer {name} of {stream}") from refusal
    for setting, is_now in drift(wanted, found.config).items():
        logger.warning("the consumer %s of %s has %s=%r, not %r", name, stream, setting, is_now, wanted[setting])


async def _create_consumer(jetstream: JetStream, stream: str, name: str, config: Mapping[str, Any]) -> None:
    try:
        await jetstream.ask(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", stream_name=stream, config=config)
    except Refusal:
        if await jetstream.consumer(stream, name) is None:  # else another instance made it, to begin elsewhere
            raise


async def trim(
    jetstream: JetStream, channel: str, partition: int, *, known: Mapping[tuple[str, str], Iterable[int]] = NONE_KNOWN
) -> int:
    """Remove from a partition what every consumer of its stream has acknowledged.

    Args:
        jetstream: where it lies.
        channel: the partition's.
        partition: its number.
        known: sequences that were acknowledged to a consumer, by its name and when it was made: to another one of that
            name, of a stream that was made again, they mean other messages.

    Returns:
        The sequence up to which it was removed; 0 if nothing was.

    Raises:
        BrokerUnavailableError: the server cannot be reached, or would not; nothing is lost by it.
    """
    stream, subject = stream_of(channel), subject_of(channel, partition)
    try:
        found = await jetstream.consumers(stream)
        names = {one.name for one in found}
        if any(durable_of(consumer, partition) not in names for consumer in _parted(found, channel)):
            return 0  # it is made again, and begins with all that is there
        floors = [one.floor for one in found if _concerns(one.config, channel, subject)]
        floor = min(floors, default=0)
        if floor > 0:
            ours = [number for one in found for number in known.get((one.name, one.created), ())]
            await jetstream.remove(stream, subject, up_to=floor, known=ours)
        return floor
    except Refusal as refusal:
        raise refused(refusal, what=f"purge of {stream}") from refusal


def _is_heard(found: Sequence[Consumer], channel: str, partition: int) -> bool:
    """Tell whether any consumer may want messages of a partition."""
    return any(_concerns(one.config, channel, subject_of(channel, partition)) for one in found)


def _parted(found: Sequence[Consumer], channel: str) -> set[str]:
    """Return the consumers of ours that have at least one of a channel's partitions."""
    durables = {subject: partition for partition, subject in enumerate(subjects_of(channel))}
    owners = ((one, consumer_of(one.name), durables.get(one.config.get("filter_subject", ""))) for one in found)
    return {
        owner for one, owner, partition in owners if partition is not None and durable_of(owner, partition) == one.name
    }


def _concerns(config: Mapping[str, Any], channel: str, subject: str) -> bool:
    """Tell whether a consumer, ours or another's, may want messages of ``subject``."""
    filters: Sequence[str] = config.get("filter_subjects") or [config.get("filter_subject", "")]
    others = {subject_of(channel, partition) for partition in range(PARTITIONS)} - {subject}
    return not set(filters) <= others
