"""The port of a broker as a whole: it declares subscriptions and hands out both ends of its channels.

EIP: *Channel Adapter*.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from pillarbox.channel.address import Subscription
from pillarbox.channel.capabilities import BrokerCapabilities
from pillarbox.channel.receiver import MessageReceiver
from pillarbox.channel.sender import MessageSender


class Broker(Protocol):
    """One broker, connected on ``open``."""

    @property
    @abstractmethod
    def capabilities(self) -> BrokerCapabilities:
        """What the broker is good for."""

    @abstractmethod
    async def open(self) -> None:
        """Connect; calling it twice is harmless.

        Raises:
            BrokerUnavailableError: it cannot be reached.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect; everything handed out before is of no use any more."""

    @abstractmethod
    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        """Make the channels of ``subscriptions`` and the consumers' places on them durable.

        A message sent to a topic after this returned waits for each of these consumers, running or not.
        """

    @abstractmethod
    def sender(self) -> MessageSender:
        """Return the sending end."""

    @abstractmethod
    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        """Return a receiving end for one instance; ``owner`` is new for each start of a process."""
