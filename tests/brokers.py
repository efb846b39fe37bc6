"""What the brokers of tests and benchmarks share: there is nothing to connect to, and most have one end only."""

from __future__ import annotations

from collections.abc import Sequence

from pillarbox.channel import Broker, BrokerCapabilities, MessageReceiver, MessageSender, Subscription


class StandInBroker(Broker):
    """A broker without a server. Give it a ``sender``, or a ``receiver``; the other end is not there."""

    def __init__(self, *, ordered_prefix: bool = True, durable: bool = True) -> None:
        self._capabilities = BrokerCapabilities(
            ordered_prefix=ordered_prefix, key_affinity=True, durable=durable, transactional=False
        )

    @property
    def capabilities(self) -> BrokerCapabilities:
        return self._capabilities

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        pass

    def sender(self) -> MessageSender:
        raise NotImplementedError("nothing is sent here")

    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        raise NotImplementedError("nothing is received here")
