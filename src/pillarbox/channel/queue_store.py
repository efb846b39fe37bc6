"""The port on which the database stands as a broker.

EIP: *Message Store*; Karwin and others call the shape a database queue.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pillarbox.channel.address import Subscription
from pillarbox.message import Message
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedMessage:
    """A message waiting for one consumer, at its position in the queue table."""

    position: int
    slot: int
    message: Message


class QueueStore(Protocol):
    """Messages waiting in the database, a row for each consumer that will get one.

    Every implementation must pass ``pillarbox.testing.contracts.QueueStoreContract``.
    """

    @abstractmethod
    def subscribe(self, subscription: Subscription) -> Program[None]:
        """Give the consumer a place on each topic it listens to; idempotent."""

    @abstractmethod
    def rivals(self, subscription: Subscription) -> Program[Mapping[str, str]]:
        """Return those of its queues that a living process reads as another consumer, with that consumer's name."""

    @abstractmethod
    def enqueue(self, messages: Sequence[Message]) -> Program[Collection[str]]:
        """Store each message for every consumer of its topic, or once for its queue, in the given order.

        Returns:
            The topics nobody subscribes to; messages to these were not stored.
        """

    @abstractmethod
    def read(
        self, subscription: Subscription, *, slots: Sequence[int], leave_out: Sequence[int], limit: int
    ) -> Program[Sequence[QueuedMessage]]:
        """Return the oldest messages in ``slots`` without the positions to ``leave_out``, each channel's in order.

        A single statement where the subscription is of topics only, or of one queue.
        """

    @abstractmethod
    def accept(self, scope: str, tokens: Sequence[int], positions: Sequence[int]) -> Program[int]:
        """Remove the messages at ``positions`` whose slots are leased under ``tokens``; return how many."""
