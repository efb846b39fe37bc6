"""What one instance has of a stream: pure book-keeping."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from typing import TypeAlias

from pillarbox.brokers.redis.entries import message_from
from pillarbox.channel import Delivery

Entry: TypeAlias = tuple[bytes, Sequence[bytes] | None]
"""An entry's id, and its fields; none where somebody removed it while it was pending."""


@dataclass(frozen=True, slots=True, order=True)
class Receipt:
    """Where an entry lies; in the order of entries within a stream."""

    milliseconds: int
    number: int
    stream: str

    @property
    def entry(self) -> str:
        """The id of the entry."""
        return f"{self.milliseconds}-{self.number}"


@dataclass(slots=True)
class Share:
    """A stream of a subscription, and what this instance has of it.

    Attributes:
        ready: read and not handed out, in order.
        out: handed out and not settled.
        token: the lease under which what is pending was read; none while it has still to be.
        acknowledged: entries since the stream was last trimmed.
    """

    name: str
    channel: str
    partition: int
    ready: deque[Delivery] = field(default_factory=deque[Delivery])
    out: dict[Receipt, Delivery] = field(default_factory=dict[Receipt, Delivery])
    token: int | None = None
    acknowledged: int = 0

    @property
    def known(self) -> int:
        """How many pending entries are here."""
        return len(self.out) + len(self.ready)

    def take(self, entries: Iterable[Entry]) -> list[Receipt]:
        """Make entries ready that were read, but for those that are out; return those that somebody removed."""
        removed: list[Receipt] = []
        for entry, fields in entries:
            milliseconds, _, number = entry.decode().partition("-")
            receipt = Receipt(int(milliseconds), int(number), self.name)
            if fields is None:
                removed.append(receipt)
            elif receipt not in self.out:
                message = message_from(fields, channel=self.channel, place=f"{self.name}/{receipt.entry}")
                self.ready.append(Delivery(message=message, receipt=receipt))
        return removed

    def give_back(self, receipts: Iterable[Receipt]) -> None:
        """Make ready again what was handed out, before what follows it."""
        returned = [self.out.pop(receipt) for receipt in receipts if receipt in self.out]
        self.ready = deque(sorted([*returned, *self.ready], key=receipt_of))

    def forget(self) -> None:
        """Have nothing of it; what is pending is found by whoever reads it next."""
        self.ready.clear()
        self.out.clear()
        self.token = None


def hand_out(shares: Sequence[Share], limit: int) -> list[Delivery]:
    """Take up to ``limit`` of what is ready, the oldest first."""
    by_name = {share.name: share for share in shares}
    oldest_first = merge(*(list(share.ready) for share in shares), key=receipt_of)
    deliveries = list(islice(oldest_first, limit))
    for delivery in deliveries:
        receipt = receipt_of(delivery)
        by_name[receipt.stream].ready.popleft()
        by_name[receipt.stream].out[receipt] = delivery
    return deliveries


def receipt_of(delivery: Delivery) -> Receipt:
    """Return the receipt of a delivery of ours."""
    receipt = delivery.receipt
    assert isinstance(receipt, Receipt), receipt
    return receipt


def by_stream(deliveries: Iterable[Delivery]) -> dict[str, list[Receipt]]:
    """Return the receipts of ``deliveries`` by the names of their streams."""
    found: dict[str, list[Receipt]] = {}
    for delivery in deliveries:
        receipt = receipt_of(delivery)
        found.setdefault(receipt.stream, []).append(receipt)
    return found
