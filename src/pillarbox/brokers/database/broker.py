"""The broker that the store itself is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from pillarbox.brokers.database.receiver import DatabaseReceiver
from pillarbox.channel import (
    Broker,
    BrokerCapabilities,
    Confirmed,
    MessageSender,
    NotReady,
    SendResult,
    Subscription,
    Unavailable,
    Unknown,
)
from pillarbox.channel.wakeup import Wakeup
from pillarbox.errors import ConfigurationError, ConflictError, TransientError
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.message import Message
from pillarbox.outbox import SLOTS

if TYPE_CHECKING:
    from pillarbox.channel import QueueStore
    from pillarbox.clock import Clock
    from pillarbox.lease import LeaseStore
    from pillarbox.transaction import TransactionSource

CAPABILITIES = BrokerCapabilities(ordered_prefix=True, key_affinity=True, durable=True, transactional=True)


class DatabaseBroker(Broker):
    """Queues and topics as tables; each consumer's slots are leased to its instances, which keeps keys together."""

    def __init__(
        self,
        *,
        queue: QueueStore,
        leases: LeaseStore,
        source: TransactionSource,
        clock: Clock,
        wakeup: Wakeup,
        lease: timedelta = timedelta(seconds=15),
    ) -> None:
        """Stand on ``queue``; a receiver that stops without a word keeps its slots for ``lease``."""
        self._queue = queue
        self._leases = leases
        self._source = source
        self._clock = clock
        self._wakeup = wakeup
        self._lease = lease

    @property
    def capabilities(self) -> BrokerCapabilities:
        """What a database can do."""
        return CAPABILITIES

    async def open(self) -> None:
        """Do nothing: the store is the connection."""

    async def close(self) -> None:
        """Do nothing: the store is the connection."""

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        """Store the subscriptions.

        Raises:
            ConfigurationError: another consumer, which a process has now, reads one of the queues; none is stored.
        """
        for subscription in subscriptions:
            for channel, other in (await self._source.run(self._queue.rivals(subscription))).items():
                raise ConfigurationError(
                    f"{channel} has the consumer {other} already, and {subscription.consumer} wants it too; a queue's "
                    "messages go to one consumer: publish events for several, or stop the other's processes first"
                )
        for subscription in subscriptions:
            await self._source.run(self._queue.subscribe(subscription))

    def sender(self) -> MessageSender:
        """Return the sending end."""
        return DatabaseSender(self._queue, self._source)

    def receiver(self, subscription: Subscription, *, owner: str) -> DatabaseReceiver:
        """Return a receiving end that shares the slots with the other instances."""
        terms = LeaseTerms(scope=f"queue/{subscription.consumer}", slots=SLOTS, ttl=self._lease)
        keeper = LeaseKeeper(terms, owner, store=self._leases, source=self._source, clock=self._clock)
        return DatabaseReceiver(subscription, queue=self._queue, keeper=keeper, wakeup=self._wakeup)


class DatabaseSender(MessageSender):
    """Stores each batch in one transaction."""

    def __init__(self, queue: QueueStore, source: TransactionSource) -> None:
        """Send into ``queue``."""
        self._queue = queue
        self._source = source

    @property
    def capabilities(self) -> BrokerCapabilities:
        """What a database can do."""
        return CAPABILITIES

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        """Store all of ``messages``, or none."""
        try:
            not_ready = await self._source.run(self._queue.enqueue(messages))
        except ConflictError as error:
            return [Unavailable(str(error))] * len(messages)
        except TransientError as error:
            return [Unknown(str(error))] * len(messages)
        return [
            NotReady(f"nobody subscribes to {message.destination}") if message.destination in not_ready else Confirmed()
            for message in messages
        ]
