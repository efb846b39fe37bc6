"""RabbitMQ as the broker of a box."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta

from pillarbox.brokers.partitions import PartitionLeases
from pillarbox.brokers.rabbitmq.address import Address, address_of
from pillarbox.brokers.rabbitmq.declaring import declare
from pillarbox.brokers.rabbitmq.diagnosis import judge_rabbitmq, look
from pillarbox.brokers.rabbitmq.line import Line
from pillarbox.brokers.rabbitmq.receiver import RabbitMqReceiver
from pillarbox.brokers.rabbitmq.sender import CAPABILITIES, RabbitMqSender
from pillarbox.brokers.rabbitmq.wire import NAME
from pillarbox.channel import Broker, BrokerCapabilities, MessageReceiver, MessageSender, Subscription
from pillarbox.control.diagnosis import Diagnosable, Finding
from pillarbox.errors import ConfigurationError
from pillarbox.serialization import NO_FOREIGN, ForeignMessages

OLDEST = (3, 10)
"""The first release that is tested, and takes the arguments of our queues."""

ENOUGH_TO_SEND = timedelta(seconds=4)
"""For a batch; a relay with the usual lease waits for five, a third of it."""


class RabbitMqBroker(Broker, Diagnosable):
    """Queues and topics as exchanges with quorum queues; a consumer's instances lease the partitions of its channels.

    What is sent and what is received have a connection each: short of memory the server stops reading from the one, and
    must still get acknowledgements on the other.
    """

    def __init__(
        self, address: Address, *, leases: PartitionLeases, foreign: Mapping[str, ForeignMessages] = NO_FOREIGN
    ) -> None:
        """Reach the server at ``address``; connects to nothing."""
        heartbeat_s = max(1, round(leases.ttl.total_seconds() / 2))
        self._address = address
        self._sending = Line(address, heartbeat_s=heartbeat_s)
        self._receiving = Line(address, heartbeat_s=heartbeat_s)
        self._leases = leases
        self._foreign = foreign

    @property
    def capabilities(self) -> BrokerCapabilities:
        return CAPABILITIES

    async def open(self) -> None:
        """Make sure that the server is there and new enough.

        Raises:
            BrokerUnavailableError: it cannot be reached, or refuses the user.
            ConfigurationError: it is too old.
        """
        version = str((await self._sending.wire()).server.get("version", ""))
        if (found := re.match(r"(\d+)\.(\d+)", version)) and (int(found[1]), int(found[2])) < OLDEST:
            raise ConfigurationError(f"RabbitMQ {version} is too old; queues are declared as needed from 3.10 on")

    async def close(self) -> None:
        await self._sending.close()
        await self._receiving.close()

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        for subscription in subscriptions:
            await declare(self._receiving, subscription)

    async def diagnose(self, *, deep: bool) -> Sequence[Finding]:
        return judge_rabbitmq(await look(await self._sending.wire(), self._address))

    def sender(self) -> MessageSender:
        return RabbitMqSender(self._sending, within=max(self._leases.ttl / 4, ENOUGH_TO_SEND))

    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        keeper = self._leases.keeper(NAME, subscription.consumer, owner)
        return RabbitMqReceiver(subscription, line=self._receiving, keeper=keeper, foreign=self._foreign)


def rabbitmq_broker(
    url: str, *, leases: PartitionLeases, foreign: Mapping[str, ForeignMessages] = NO_FOREIGN
) -> RabbitMqBroker:
    """Return the broker at ``url``: ``amqp://`` or ``amqps://``.

    Raises:
        ConfigurationError: it is no such URL.
    """
    return RabbitMqBroker(address_of(url), leases=leases, foreign=foreign)
