"""The port through which a consumer gets messages and settles them.

EIP: *Polling Consumer*, *Competing Consumers*, *Transactional Client*.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from pillarbox.channel.delivery import Delivery, Outcome
from pillarbox.transaction import Program

OUT_OF_A_PLACE = 200
"""So many messages of one place (a slot, a partition) are handed out at most and not settled.

A key whose messages are handled slowly leaves room for those of other places, however many of it wait.
"""


class MessageReceiver(Protocol):
    """The receiving end of one subscription, for one instance of its consumer.

    Every implementation must pass ``pillarbox.testing.contracts.ReceiverContract``.
    """

    @abstractmethod
    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        """Wait up to ``within`` for messages; return up to ``limit``, the order of each key kept.

        Of one place no more than ``OUT_OF_A_PLACE`` are out at a time, so that no key keeps all others waiting.

        Where the broker puts messages aside by limits of its own, these are handed out too, and say so.

        A message that was handed out is not handed out again by this receiver until it is settled. May return
        nothing. Called again and again also while the consumer is busy (with ``limit`` 0), so that leases live.

        Raises:
            TransientError: the broker is away; nothing was handed out.
        """

    @abstractmethod
    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Tell the broker what became of ``deliveries``; stale receipts are ignored.

        Raises:
            TransientError: the broker is away; the messages will be delivered again.
        """

    def stop(self) -> None:
        """Have ``receive`` wait no longer, now and from now on: the consumer is to end.

        A receiver that cannot leave a wait need not do anything: then the consumer ends when the wait is over.
        """

    def still_ours(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those of ``deliveries`` whose handling may begin; the others are let go of, and not to be settled.

        They came under a lease or by a connection that is lost, so they are delivered once more, here or elsewhere:
        begun here they would be handled twice. Whoever cannot tell returns all.
        """
        return deliveries

    @abstractmethod
    async def close(self) -> None:
        """Stop receiving and let go of what is not settled, so that others get it at once."""


class TransactionalReceiver(MessageReceiver, Protocol):
    """A receiver whose messages can be accepted in the transaction that holds their effects."""

    @abstractmethod
    def accept_within(self, deliveries: Sequence[Delivery]) -> Program[None]:
        """Accept ``deliveries`` in the transaction that runs this program; ``settle`` must still follow its commit.

        Raises:
            LeaseLostError: another instance owns one of them by now; the transaction must be rolled back.
        """
