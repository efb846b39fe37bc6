"""RabbitMQ as the broker of a box."""

from __future__ import annotations

from collections.abc import Sequence

from pillarbox.brokers.partitions import PartitionLeases
from pillarbox.brokers.rabbitmq.address import Address, address_of
from pillarbox.brokers.rabbitmq.declaring import declare
from pillarbox.brokers.rabbitmq.line import Line
from pillarbox.brokers.rabbitmq.receiver import RabbitMqReceiver
from pillarbox.brokers.rabbitmq.sender import CAPABILITIES, RabbitMqSender
from pillarbox.brokers.rabbitmq.wire import NAME
from pillarbox.channel import Broker, BrokerCapabilities, MessageReceiver, MessageSender, Subscription


class RabbitMqBroker(Broker):
    """Queues and topics as exchanges with quorum queues; a consumer's instances lease the partitions of its channels.

    What is sent and what is received have a connection each: short of memory the server stops reading from the one, and
    must still get acknowledgements on the other.
    """

    def __init__(self, address: Address, *, leases: PartitionLeases) -> None:
        """Reach the server at ``address``; connects to nothing."""
        heartbeat_s = max(1, round(leases.ttl.total_seconds() / 2))
        self._sending = Line(address, heartbeat_s=heartbeat_s)
        self._receiving = Line(address, heartbeat_s=heartbeat_s)
        self._leases = leases

    @property
    def capabilities(self) -> BrokerCapabilities:
        return CAPABILITIES

    async def open(self) -> None:
        await self._sending.wire()

    async def close(self) -> None:
        await self._sending.close()
        await self._receiving.close()

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        for subscription in subscriptions:
            await declare(self._receiving, subscription)

    def sender(self) -> MessageSender:
        return RabbitMqSender(self._sending)

    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        keeper = self._leases.keeper(NAME, subscription.consumer, owner)
        return RabbitMqReceiver(subscription, line=self._receiving, keeper=keeper)


def rabbitmq_broker(url: str, *, leases: PartitionLeases) -> RabbitMqBroker:
    """Return the broker at ``url``: ``amqp://`` or ``amqps://``.

    Raises:
        ConfigurationError: it is no such URL.
    """
    return RabbitMqBroker(address_of(url), leases=leases)
