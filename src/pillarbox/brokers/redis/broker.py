"""Redis as the broker of a box."""

from __future__ import annotations

from collections.abc import Sequence

from pillarbox.brokers.partitions import PartitionLeases
from pillarbox.brokers.redis.connection import NAME, RedisConnection
from pillarbox.brokers.redis.diagnosis import judge_redis, look
from pillarbox.brokers.redis.groups import declare
from pillarbox.brokers.redis.receiver import RedisReceiver
from pillarbox.brokers.redis.sender import CAPABILITIES, RedisSender
from pillarbox.channel import Broker, BrokerCapabilities, MessageReceiver, MessageSender, Subscription
from pillarbox.control.diagnosis import Diagnosable, Finding
from pillarbox.errors import ConfigurationError

OLDEST = (6, 2)
"""The first release that trims a stream by an entry's id."""


class RedisBroker(Broker, Diagnosable):
    """Queues and topics as streams; a consumer is a group, its instances lease the partitions of its channels."""

    def __init__(self, url: str, *, leases: PartitionLeases) -> None:
        """Reach the server at ``url``; connects to nothing."""
        self._connection = RedisConnection(url)
        self._leases = leases

    @property
    def capabilities(self) -> BrokerCapabilities:
        return CAPABILITIES

    async def open(self) -> None:
        """Make sure that the server is there and new enough.

        Raises:
            BrokerUnavailableError: it cannot be reached.
            ConfigurationError: it is too old, or a node of a cluster.
        """
        facts = (await self._connection.execute("INFO", "server")).decode()
        version = facts.partition("redis_version:")[2].partition("\r\n")[0]
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise ConfigurationError(f"Redis {version} is too old; streams are trimmed as needed from 6.2 on")
        if "redis_mode:cluster" in facts:
            raise ConfigurationError(
                "it is a node of a Redis Cluster, which sends its clients from node to node for each channel; name a "
                "Redis that is no cluster, or a proxy that hides it"
            )

    async def close(self) -> None:
        await self._connection.close()

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        for subscription in subscriptions:
            await declare(self._connection, subscription)

    async def diagnose(self, *, deep: bool) -> Sequence[Finding]:
        return judge_redis(await look(self._connection))

    def sender(self) -> MessageSender:
        return RedisSender(self._connection)

    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        keeper = self._leases.keeper(NAME, subscription.consumer, owner)
        return RedisReceiver(subscription, connection=self._connection, keeper=keeper)


def redis_broker(url: str, *, leases: PartitionLeases) -> RedisBroker:
    """Return the broker at ``url``: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it.

    Raises:
        ConfigurationError: it is no such URL.
    """
    try:
        return RedisBroker(url, leases=leases)
    except ValueError as error:
        raise ConfigurationError(f"what broker= names is no URL of a Redis: {error}") from None
