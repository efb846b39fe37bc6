"""NATS JetStream as the broker of a box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs, urlsplit, urlunsplit

from pillarbox.brokers.nats.api import JetStream, Refusal
from pillarbox.brokers.nats.connection import NAME, NatsConnection
from pillarbox.brokers.nats.consumers import declare
from pillarbox.brokers.nats.diagnosis import judge_nats, look
from pillarbox.brokers.nats.receiver import NatsReceiver
from pillarbox.brokers.nats.sender import CAPABILITIES, NatsSender
from pillarbox.brokers.partitions import PartitionLeases
from pillarbox.channel import Broker, BrokerCapabilities, MessageReceiver, MessageSender, Subscription
from pillarbox.control.diagnosis import Diagnosable, Finding
from pillarbox.errors import ConfigurationError
from pillarbox.serialization import NO_FOREIGN, ForeignMessages

OLDEST = (2, 9)
"""The first release that finds the next message of a subject."""
SCHEMES = ("nats", "tls", "ws", "wss")


class NatsBroker(Broker, Diagnosable):
    """Queues and topics as streams; a consumer has a durable one for each partition, its instances lease them."""

    def __init__(
        self,
        servers: Sequence[str],
        *,
        leases: PartitionLeases,
        replicas: int = 1,
        foreign: Mapping[str, ForeignMessages] = NO_FOREIGN,
    ) -> None:
        """Reach one of ``servers``; connects to nothing. Streams that are made have ``replicas``."""
        self._connection = NatsConnection(servers)
        self._jetstream = JetStream(self._connection)
        self._leases = leases
        self._replicas = replicas
        self._foreign = foreign

    @property
    def capabilities(self) -> BrokerCapabilities:
        return CAPABILITIES

    async def open(self) -> None:
        """Make sure that the server is there, new enough, and has JetStream.

        Raises:
            BrokerUnavailableError: it cannot be reached.
            ConfigurationError: it is too old, or JetStream is off.
        """
        link = await self._connection.link()
        version = link.client.connected_server_version
        if (version.major, version.minor) < OLDEST:
            raise ConfigurationError(f"NATS {version.major}.{version.minor} is too old; 2.9 is the first that will do")
        try:
            await self._jetstream.ask("INFO")
        except Refusal as refusal:
            raise ConfigurationError(
                f"JetStream is not enabled for this account ({refusal.reason}); start nats-server with -js and a "
                "store directory, and enable it for the account"
            ) from refusal

    async def close(self) -> None:
        await self._connection.close()

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        for subscription in subscriptions:
            await declare(self._jetstream, subscription, replicas=self._replicas)

    async def diagnose(self, *, deep: bool) -> Sequence[Finding]:
        return judge_nats(await look(self._connection, self._jetstream))

    def sender(self) -> MessageSender:
        return NatsSender(self._connection, self._jetstream, replicas=self._replicas)

    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        return NatsReceiver(
            subscription,
            connection=self._connection,
            jetstream=self._jetstream,
            keeper=self._leases.keeper(NAME, subscription.consumer, owner),
            replicas=self._replicas,
            foreign=self._foreign,
        )


def nats_broker(
    url: str, *, leases: PartitionLeases, foreign: Mapping[str, ForeignMessages] = NO_FOREIGN
) -> NatsBroker:
    """Return the broker at ``url``: ``nats://user:password@host:port?replicas=3``; several are separated by commas.

    Raises:
        ConfigurationError: it is no such URL.
    """
    servers = [one.strip() for one in url.split(",")]
    *others, last = servers
    parts = urlsplit(last)
    options = parse_qs(parts.query, keep_blank_values=True)
    replicas = options.pop("replicas", ["1"])[-1]
    if options or not replicas.isdecimal() or not 1 <= int(replicas) <= 5:
        raise ConfigurationError(
            "of a NATS URL's options there is only replicas=1 to 5: how many servers keep a stream"
        )
    if any(urlsplit(one).scheme not in SCHEMES or not urlsplit(one).hostname for one in servers):
        raise ConfigurationError("what broker= names is no URL of NATS: nats://host:port, or tls://host:port")
    return NatsBroker(
        [*others, urlunsplit(parts._replace(query=""))], leases=leases, replicas=int(replicas), foreign=foreign
    )
