"""What one instance has of a partition's queue: the channel that reads it, and what came by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pillarbox.brokers.partitions import Receipt, Share, receipt_of
from pillarbox.brokers.rabbitmq.channel import Channel, ChannelClosedError
from pillarbox.channel import Delivery
from pillarbox.channel.delivery import PutAside
from pillarbox.message import Message


@dataclass(slots=True)
class QueueShare(Share):
    """A share whose receipts are (number of the arrival, reading, delivery tag).

    Attributes:
        reader: what reads the queue now; none before it is opened, and once it was lost.
        reading: numbers the channels that have read it, since a tag means something on its own channel only.
        opens_from: when it may be opened, by the monotonic clock; later than now after a refusal.
        unsettled: what came by this channel and is not acknowledged, by its tags, in order.
        is_dead: it is no partition, but what the server would not deliver from any of them.
    """

    reader: Channel | None = None
    reading: int = 0
    opens_from: float = 0.0
    unsettled: dict[int, Delivery] = field(default_factory=dict[int, Delivery])
    is_dead: bool = False

    @property
    def is_cancelled(self) -> bool:
        """Tell whether the server gave it up, and that has not been noticed."""
        return self.reader is not None and self.reader.is_cancelled

    def is_to_be_opened(self, now: float) -> bool:
        """Tell whether nothing reads it, and nothing is out that would come a second time."""
        return self.reader is None and not self.out and now >= self.opens_from

    def read_by(self, reader: Channel, token: int) -> None:
        """Have a new channel read it, under a lease; when the lease is another's, all of it is forgotten."""
        self.reader, self.token = reader, token
        self.reading += 1

    def arrived(self, arrival: int, tag: int, message: Message, put_aside: PutAside | None = None) -> None:
        """Make ready what came by the channel that reads it."""
        receipt = Receipt((arrival, self.reading, tag), self.name)
        delivery = Delivery(message=message, receipt=receipt, put_aside=put_aside)
        self.unsettled[tag] = delivery
        self.ready.append(delivery)

    def notice_loss(self) -> ChannelClosedError | None:
        """Forget what came by a channel that was lost; return the server's reason if it was its will.

        What is out stays out until it is settled.
        """
        if self.reader is None or self.reader.closed is None:
            return None
        closed, self.reader = self.reader.closed, None
        self.ready.clear()
        self.unsettled.clear()
        return closed if isinstance(closed, ChannelClosedError) else None

    def lay_aside(self) -> None:
        """Hand out nothing more of it for now; its channel has what is laid aside."""
        self.ready.clear()

    def restore(self) -> None:
        """Make ready again what is neither settled nor out: it was laid aside when the share was to be given back."""
        if len(self.unsettled) > self.known:
            self.ready.clear()
            self.ready.extend(one for one in self.unsettled.values() if receipt_of(one) not in self.out)

    def accept(self, receipts: Iterable[Receipt]) -> list[tuple[int, bool]]:
        """Settle what was handed out; return what to acknowledge: tags, and whether all before each are meant too."""
        receipts = list(receipts)
        self.settle(receipts)
        wanted = {receipt.order[2] for receipt in receipts if receipt.order[1] == self.reading} & self.unsettled.keys()
        together = 0
        for tag in self.unsettled:
            if tag not in wanted:
                break
            together = tag
        for tag in wanted:
            del self.unsettled[tag]
        alone = sorted(tag for tag in wanted if tag > together)
        return [*([(together, True)] if together else []), *((tag, False) for tag in alone)]

    def give_back(self, receipts: Iterable[Receipt]) -> None:
        """Make ready again what was handed out; what came by a channel that was lost comes by the next one."""
        known: list[Receipt] = []
        for receipt in receipts:
            (known.append if self._is_current(receipt) else self._drop)(receipt)
        Share.give_back(self, known)

    def still_has(self, delivery: Delivery) -> bool:
        """Tell whether its channel is open; what came by one that was lost comes by the next once none of it is out."""
        receipt = receipt_of(delivery)
        is_current = self._is_current(receipt)
        if not is_current:
            self._drop(receipt)
        return is_current

    def forget(self) -> None:
        """Let go of it: the queue gets back what is not acknowledged, in order."""
        Share.forget(self)
        self.unsettled.clear()
        if self.reader is not None:
            self.reader.leave()
            self.reader = None

    def _is_current(self, receipt: Receipt) -> bool:
        is_open = self.reader is not None and self.reader.closed is None
        return is_open and receipt.order[1] == self.reading and receipt.order[2] in self.unsettled

    def _drop(self, receipt: Receipt) -> None:
        self.out.pop(receipt, None)
