"""One partition as an instance pulls it: what it asked for, what came, and how each message is acknowledged."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, TypeAlias

from pillarbox.brokers.nats.api import Consumer, Stored
from pillarbox.brokers.nats.consumers import MOST_PENDING
from pillarbox.brokers.nats.headers import headers_from, message_from
from pillarbox.brokers.partitions import Receipt, Share, receipt_of
from pillarbox.message import Message
from pillarbox.serialization import ForeignMessages

ASK_AT_ONCE: Final = 200
LOW: Final = 100
REMEMBERED: Final = 4 * MOST_PENDING
Place: TypeAlias = tuple[int, ...]
"""A message's sequence in its stream, and when it was stored: a stream that is made again gives the sequences again."""


class Arrival(Enum):
    """What became of something that came from the server."""

    TAKEN = auto()
    ACKNOWLEDGED_BEFORE = auto()
    """It is settled, and the server does not know; acknowledge it again."""
    GAP = auto()
    """Somebody else was given what lies between, or another consumer has the name: what is pending is to be read again.
    """


@dataclass(slots=True)
class Pull(Share):
    """A share that is pulled.

    The server numbers its deliveries, whoever gets them: by a missing number it shows that another instance, or a
    connection that is lost, got something. A consumer that was removed and made again begins with one.

    Attributes:
        stream: the stream of its channel.
        durable: the consumer of its partition.
        inbox: the subscription to which what is asked for comes; none while nothing is.
        foreign: how messages of the channel are read that are no CloudEvents.
        replies: where each message that is here is acknowledged, by its place; empty where it was read from the stream,
            or came from a consumer that is gone, and has still to come from this one.
        settled: the places of those settled last.
        acknowledged: sequences that the consumer which is followed was told of, and that may still lie in the stream.
        created: when the consumer was made that is followed; empty before any is.
        following: the number of the next delivery.
        asked: how many were asked for and have not come.
        asked_until: when they will not come any more.
        ask_from: the earliest time to ask again.
        attached_at: when what is pending of it was last to be read, by the monotonic clock.
        came: what has come and was not looked at.
        refusal: what the server said last when it would not give any; said again it is no news.
    """

    stream: str = ""
    durable: str = ""
    foreign: ForeignMessages | None = None
    inbox: Any = None
    replies: dict[Place, str] = field(default_factory=dict[Place, str])
    settled: OrderedDict[Place, None] = field(default_factory=OrderedDict[Place, None])
    acknowledged: deque[int] = field(default_factory=lambda: deque[int](maxlen=REMEMBERED))
    created: str = ""
    following: int = 0
    asked: int = 0
    asked_until: float = 0.0
    ask_from: float = 0.0
    attached_at: float = float("-inf")
    came: deque[Any] = field(default_factory=deque[Any])
    refusal: str = ""

    def ask(self, now: float, *, within: float) -> int:
        """Return how many to ask for now, and count them as asked for; they come ``within`` so many seconds."""
        is_asked = self.asked > 0 and now < self.asked_until
        if self.token is None or self.inbox is None or is_asked or now < self.ask_from or len(self.ready) >= LOW:
            return 0
        self.asked, self.asked_until = ASK_AT_ONCE - len(self.ready), now + within
        return self.asked

    def begin(self, returned: Sequence[Any]) -> None:
        """Take ``returned`` for what has come first, and ask for more at once."""
        self.came.extend(returned)
        self.asked, self.ask_from = len(returned), 0.0

    def ask_again(self, *, from_: float) -> None:
        """Count nothing as asked for, and ask no earlier."""
        self.asked, self.ask_from = 0, from_

    def is_news(self, refusal: str) -> bool:
        """Tell whether the server says something else than the last time that it would give nothing."""
        before, self.refusal = self.refusal, refusal
        return refusal != before

    def attach(self, consumer: Consumer) -> int:
        """Begin with what follows the last delivery of ``consumer``; what is out stays, all else is found again.

        A consumer that was made again may have taken acknowledgements of the one before it for its own. So none of its
        own are believed, and no more are sent. (NATS 2.9 tells another time of the same one after its first restart;
        that costs reading once more what is known here by its place.)

        Returns:
            The sequence in the stream behind which to look for what it delivered.
        """
        self.lay_aside()
        self.came.clear()
        is_another = self.created not in ("", consumer.created)
        if is_another:
            self.replies = dict.fromkeys(self.replies, "")
            self.acknowledged.clear()  # their stream may be another one, too, where others have these sequences
        self.created, self.following = consumer.created, consumer.delivered + 1
        if is_another:
            return 0
        return consumer.floor if consumer.pending else consumer.delivered_up_to

    def is_whole(self, returned: Sequence[Any], consumer: Consumer) -> bool:
        """Tell whether ``returned`` has all that ``consumer`` has pending, in order: then it is what is not settled.

        What the stream has behind the first of it may be acknowledged, and nobody could tell.
        """
        sequences = [_numbers(one.reply)[0][0] for one in returned]
        before = [sequence for sequence in sequences if sequence <= consumer.delivered_up_to]
        return len(before) == consumer.pending and sequences == sorted(sequences)

    def follows(self, consumer: Consumer | None) -> bool:
        """Tell whether ``consumer`` is the one that is followed, and has given nothing to anybody else."""
        if consumer is None or consumer.created != self.created:
            return False
        return bool(self.came) or consumer.delivered < self.following

    def find(self, stored: Stored) -> None:
        """Make ready what was read from the stream, unless it is here or was settled here."""
        place = stored.sequence, stored.time_ns
        if place not in self.replies and place not in self.settled:
            self.replies[place] = ""
            self.add(place, self._message(stored.sequence, headers_from(stored.headers), stored.body))

    def take(self, came: Any) -> Arrival:
        """Make ready what came from the consumer."""
        place, delivery = _numbers(came.reply)
        if delivery != self.following:
            return Arrival.GAP
        self.following += 1
        self.refusal = ""
        if place in self.settled:
            self.acknowledged.append(place[0])
            return Arrival.ACKNOWLEDGED_BEFORE
        if place not in self.replies:
            self.add(place, self._message(place[0], came.headers, came.data))
        self.replies[place] = came.reply
        return Arrival.TAKEN

    def accept(self, receipts: list[Receipt]) -> list[str]:
        """Settle what is out; return where it is to be acknowledged."""
        replies: list[str] = []
        for receipt in receipts:
            if self.settle([receipt]):
                if reply := self.replies.pop(receipt.order, ""):
                    replies.append(reply)
                    self.acknowledged.append(receipt.order[0])
                self.settled[receipt.order] = None
        while len(self.settled) > REMEMBERED:
            self.settled.popitem(last=False)
        return replies

    def trimmed(self, up_to: int) -> None:
        """Forget what was removed from the stream."""
        self.acknowledged = deque((one for one in self.acknowledged if one > up_to), maxlen=REMEMBERED)

    def unsettled(self, *, with_out: bool) -> list[str]:
        """Return where to say of what came that it was not settled, in the order of the stream."""
        out = set[Place]() if with_out else {receipt.order for receipt in self.out}
        here = [reply for place, reply in sorted(self.replies.items()) if reply and place not in out]
        return here + [came.reply for came in self.came if came.reply]

    def _message(self, sequence: int, headers: Mapping[str, str] | None, body: bytes) -> Message:
        place = f"{self.stream}/{sequence}"
        return message_from(headers, body, channel=self.channel, place=place, foreign=self.foreign)

    def lay_aside(self) -> None:
        """Hand out nothing more of it for now."""
        for delivery in self.ready:
            self.replies.pop(receipt_of(delivery).order, None)
        Share.lay_aside(self)

    def forget(self) -> None:
        """Have nothing of it."""
        Share.forget(self)
        self.created = ""
        self.acknowledged.clear()
        self.replies.clear()
        self.settled.clear()
        self.came.clear()


def _numbers(reply: str) -> tuple[Place, int]:
    """Return, of the subject where a delivery is acknowledged, the message's place and the delivery's number.

    ``$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>``; with a domain
    and an account before the stream, and a token at the end, in newer servers.
    """
    tokens = reply.split(".")
    at = 5 if len(tokens) == 9 else 7
    return (int(tokens[at]), int(tokens[at + 2])), int(tokens[at + 1])
