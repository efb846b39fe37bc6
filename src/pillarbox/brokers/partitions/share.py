"""What one instance has of a partition of a channel: pure book-keeping."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pillarbox.channel import OUT_OF_A_PLACE, Delivery
from pillarbox.message import Message


class Receipt(NamedTuple):
    """Where a message lies; in the order in which the messages of a place follow each other.

    Attributes:
        order: rises from message to message of one place.
        place: the name of the share.
    """

    order: tuple[int, ...]
    place: str


@dataclass(slots=True)
class Share:
    """A partition of a channel, and what this instance has of it.

    Attributes:
        name: what the broker calls the partition.
        ready: read and not handed out, in order.
        out: handed out and not settled.
        token: the lease under which what is pending was read; none while it has still to be.
        accepted: messages since what no group needs any more was last removed.
    """

    name: str
    channel: str
    partition: int
    ready: deque[Delivery] = field(default_factory=deque[Delivery])
    out: dict[Receipt, Delivery] = field(default_factory=dict[Receipt, Delivery])
    token: int | None = None
    accepted: int = 0

    @property
    def known(self) -> int:
        """How many messages are here."""
        return len(self.out) + len(self.ready)

    @property
    def gives(self) -> bool:
        """Whether something of it can be handed out now."""
        return bool(self.ready) and len(self.out) < OUT_OF_A_PLACE

    def add(self, order: tuple[int, ...], message: Message) -> None:
        """Make ready what was read, unless it is here already: out, or given back while it was read once more."""
        receipt = Receipt(order, self.name)
        if receipt in self.out or (self.ready and self._is_ready(receipt)):
            return
        self.ready.append(Delivery(message=message, receipt=receipt))

    def _is_ready(self, receipt: Receipt) -> bool:
        is_behind = receipt > receipt_of(self.ready[-1])  # as almost all that come
        return not is_behind and any(receipt_of(one) == receipt for one in self.ready)

    def settle(self, receipts: Iterable[Receipt]) -> int:
        """Forget what was handed out; return how many of ``receipts`` were."""
        return sum(self.out.pop(receipt, None) is not None for receipt in receipts)

    def give_back(self, receipts: Iterable[Receipt]) -> None:
        """Make ready again what was handed out, before what follows it."""
        returned = [self.out.pop(receipt) for receipt in receipts if receipt in self.out]
        self.ready = deque(sorted([*returned, *self.ready], key=receipt_of))

    def still_has(self, delivery: Delivery) -> bool:
        """Tell whether what was handed out is out still: not lost with its lease, nor handed out anew since."""
        return self.out.get(receipt_of(delivery)) is delivery

    def lay_aside(self) -> None:
        """Hand out nothing more of it for now; what is ready is read again if this instance is to go on with it."""
        self.ready.clear()
        self.token = None

    def forget(self) -> None:
        """Have nothing of it; what is pending is found by whoever reads it next."""
        self.ready.clear()
        self.out.clear()
        self.token = None


def hand_out(shares: Sequence[Share], limit: int) -> list[Delivery]:
    """Take up to ``limit`` of what is ready, of each share about as much, beginning with the one that waits longest."""
    waiting: list[Share] = sorted(
        (share for share in shares if share.gives), key=lambda share: receipt_of(share.ready[0])
    )
    deliveries: list[Delivery] = []
    while waiting and len(deliveries) < limit:
        each = max(1, (limit - len(deliveries)) // len(waiting))
        for share in waiting:
            room = OUT_OF_A_PLACE - len(share.out)
            for _ in range(min(each, room, len(share.ready), limit - len(deliveries))):
                delivery = share.ready.popleft()
                share.out[receipt_of(delivery)] = delivery
                deliveries.append(delivery)
        waiting = [share for share in waiting if share.gives]
    return deliveries


def receipt_of(delivery: Delivery) -> Receipt:
    """Return the receipt of a delivery of ours."""
    receipt = delivery.receipt
    assert isinstance(receipt, Receipt), receipt
    return receipt


def by_place(deliveries: Iterable[Delivery]) -> dict[str, list[Receipt]]:
    """Return the receipts of ``deliveries`` by the names of their shares."""
    found: dict[str, list[Receipt]] = {}
    for delivery in deliveries:
        receipt = receipt_of(delivery)
        found.setdefault(receipt.place, []).append(receipt)
    return found
