"""What one instance has of the partitions that the group gave it: pure book-keeping."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final, TypeAlias

import msgspec

from pillarbox.channel import OUT_OF_A_PLACE, Delivery

Partition: TypeAlias = tuple[str, int]
FIRST: Final = 0
ASIDE_AT_MOST: Final = 4_000
ASIDE_BYTES_AT_MOST: Final = 64 << 20
"""So much may wait in partitions that are set aside."""


class Receipt(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where a record lies, and under which assignment of its partition it came."""

    topic: str
    partition: int
    offset: int
    assignment: int


@dataclass(slots=True)
class Share:
    """A partition while it is assigned to this instance.

    Attributes:
        ready: read and not handed out, in order.
        out: handed out and not settled.
        next: the offset behind the last that was read, or of the first that was let go; none before the first.
        committed: what the group was told, or is being told.
        leaving: nothing more is handed out; what is out may still be settled.
        is_cut_off: its place is not in the log any more; nothing is taken until it begins anew.
        is_aside: nothing more of it is fetched, since enough of it is out; what is ready waits for that alone.
    """

    topic: str
    partition: int
    assignment: int
    ready: deque[Delivery] = field(default_factory=deque[Delivery])
    out: dict[int, Delivery] = field(default_factory=dict[int, Delivery])
    next: int | None = None
    committed: int | None = None
    leaving: bool = False
    is_cut_off: bool = False
    is_aside: bool = False

    @property
    def is_busy(self) -> bool:
        """Whether enough of it is out."""
        return len(self.out) >= OUT_OF_A_PLACE

    def take(self, delivery: Delivery) -> None:
        """Have a record that was read; one that is known already, or will be read anew, is let go."""
        offset = receipt_of(delivery).offset
        if not self.leaving and not self.is_cut_off and (self.next is None or offset >= self.next):
            self.ready.append(delivery)
            self.next = offset + 1

    def leave(self) -> None:
        """Hand out nothing more."""
        if self.ready:
            self.next = receipt_of(self.ready[0]).offset
        self.ready.clear()
        self.leaving = True

    def give_back(self, offsets: Iterable[int]) -> None:
        """Make ready again what was handed out, before what follows it."""
        returned = [self.out.pop(offset) for offset in offsets if offset in self.out]
        if self.leaving:
            firsts = [receipt_of(one).offset for one in returned]
            self.next = min([*firsts, *([] if self.next is None else [self.next])], default=None)
        elif returned:
            self.ready = deque(sorted([*returned, *self.ready], key=receipt_of))

    @property
    def due(self) -> int | None:
        """The lowest offset that is not finished, where the group does not know it yet.

        Of a partition that is cut off it is the first of all: whoever reads it next passes by nothing that its log has,
        though that went back and grew again.
        """
        waiting = [receipt_of(self.ready[0]).offset] if self.ready else []
        unread = [] if self.next is None else [self.next]
        lowest = FIRST if self.is_cut_off else min([*self.out, *waiting, *unread], default=None)
        return None if lowest == self.committed else lowest


class Shares:
    """All partitions of one instance. Not safe for threads: its user locks."""

    def __init__(self) -> None:
        """Begin with none."""
        self._shares: dict[Partition, Share] = {}
        self._assignments = count(1)
        self._turn = 0

    @property
    def ready(self) -> int:
        """How many records are ready, of partitions that are not set aside."""
        return sum(len(share.ready) for share in self._shares.values() if not share.is_aside)

    @property
    def ready_bytes(self) -> int:
        """How large their bodies are."""
        return _bytes_of(share for share in self._shares.values() if not share.is_aside)

    @property
    def aside(self) -> list[Partition]:
        """The partitions that are set aside."""
        return [name for name, share in self._shares.items() if share.is_aside]

    def set_aside(self) -> None:
        """Set aside the partitions of which enough is out, as far as there is room: others are not to wait for them."""
        aside = [share for share in self._shares.values() if share.is_aside]
        for share in self._shares.values():
            if share.is_busy and not share.is_aside:
                aside.append(share)
                is_room = sum(len(one.ready) for one in aside) <= ASIDE_AT_MOST
                share.is_aside = is_room and _bytes_of(aside) <= ASIDE_BYTES_AT_MOST

    def take_up(self) -> list[Partition]:
        """Return the partitions that were set aside and are to be read again, since little of them is ready."""
        again = [name for name, share in self._shares.items() if share.is_aside and len(share.ready) < OUT_OF_A_PLACE]
        for name in again:
            self._shares[name].is_aside = False
        return again

    def gain(self, partitions: Iterable[Partition], *, begin: int | None = None) -> None:
        """Begin with partitions that were assigned, at the offset ``begin`` where the group is to be told of it."""
        for topic, partition in partitions:
            self._shares[topic, partition] = Share(topic, partition, next(self._assignments), next=begin)

    def lose(self, partitions: Iterable[Partition]) -> None:
        """Have nothing of partitions any more; what of them is out is somebody else's."""
        for partition in partitions:
            self._shares.pop(partition, None)

    def clear(self) -> None:
        """Have nothing of any partition."""
        self._shares.clear()

    def of(self, partitions: Iterable[Partition]) -> list[Share]:
        """Return the shares of those partitions that are assigned."""
        return [self._shares[one] for one in partitions if one in self._shares]

    def cut_off(self, topics: Collection[str]) -> None:
        """Take nothing more of any partition of ``topics`` until it begins anew."""
        for share in self._shares.values():
            share.is_cut_off = share.is_cut_off or share.topic in topics

    def to_begin_anew(self) -> list[Partition]:
        """Return the partitions that are cut off and of which nothing is here any more."""
        return [name for name, share in self._shares.items() if share.is_cut_off and not share.ready and not share.out]

    def all(self) -> list[Share]:
        """Return every share."""
        return list(self._shares.values())

    def hand_out(self, limit: int) -> list[Delivery]:
        """Take up to ``limit`` of what is ready, of each partition in order; the partitions take turns to be first."""
        shares = list(self._shares.values())
        self._turn += 1
        start = self._turn % len(shares) if shares else 0
        deliveries: list[Delivery] = []
        for share in [*shares[start:], *shares[:start]]:
            while share.ready and len(deliveries) < limit and not share.is_busy:
                delivery = share.ready.popleft()
                share.out[receipt_of(delivery).offset] = delivery
                deliveries.append(delivery)
        return deliveries

    def accept(self, deliveries: Iterable[Delivery]) -> None:
        """Have done with what was handed out; stale receipts are ignored."""
        for share, offsets in self._by_share(deliveries):
            for offset in offsets:
                share.out.pop(offset, None)

    def give_back(self, deliveries: Iterable[Delivery]) -> None:
        """Hand out again, in order; stale receipts are ignored."""
        for share, offsets in self._by_share(deliveries):
            share.give_back(offsets)

    def _by_share(self, deliveries: Iterable[Delivery]) -> Sequence[tuple[Share, list[int]]]:
        found: dict[Partition, tuple[Share, list[int]]] = {}
        for delivery in deliveries:
            receipt = receipt_of(delivery)
            share = self._shares.get((receipt.topic, receipt.partition))
            if share is not None and share.assignment == receipt.assignment:
                found.setdefault((receipt.topic, receipt.partition), (share, []))[1].append(receipt.offset)
        return list(found.values())


def receipt_of(delivery: Delivery) -> Receipt:
    """Return the receipt of a delivery of ours."""
    receipt = delivery.receipt
    assert isinstance(receipt, Receipt), receipt
    return receipt


def _bytes_of(shares: Iterable[Share]) -> int:
    return sum(len(one.message.body) for share in shares for one in share.ready)
