"""How many partitions a channel has, where a message goes, and who reads which."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.message import Message
from pillarbox.outbox import bucket_for

if TYPE_CHECKING:
    from pillarbox.clock import Clock
    from pillarbox.lease import LeaseStore
    from pillarbox.transaction import TransactionSource

PARTITIONS: Final = 16
"""Partitions of a channel, and so the most instances of a consumer that work at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLeases:
    """Where the instances of a consumer agree on who reads which partition: the consumer's own database."""

    store: LeaseStore
    source: TransactionSource
    clock: Clock
    ttl: timedelta = timedelta(seconds=15)

    def keeper(self, broker: str, consumer: str, owner: str) -> LeaseKeeper:
        """Return the keeper of one instance of ``consumer`` at ``broker``."""
        terms = LeaseTerms(scope=f"{broker}/{consumer}", slots=PARTITIONS, ttl=self.ttl)
        return LeaseKeeper(terms, owner, store=self.store, source=self.source, clock=self.clock)


def partition_of(message: Message) -> int:
    """Return where a message goes: all of a key to one place, those without a key anywhere."""
    return bucket_for(message.destination, message.key, message_id=message.id) % PARTITIONS


def two_consumers(queue: str, consumer: str, *others: str) -> str:
    """Return what is said when a second consumer wants a queue, each of whose messages goes to one consumer."""
    return (
        f"{queue} has the consumer {', '.join(sorted(others))} already, and {consumer} wants it too; a queue's messages "
        "go to one consumer: publish events for several, or remove the other's group in the broker if it is gone for good"
    )
