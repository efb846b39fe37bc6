"""One partition as an instance pulls it: what it asked for, what came, and how each message is acknowledged."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from pillarbox.brokers.nats.consumers import MOST_PENDING
from pillarbox.brokers.nats.headers import message_from
from pillarbox.brokers.partitions import Receipt, Share, receipt_of
from pillarbox.message import Message
from pillarbox.serialization import ForeignMessages

ASK_AT_ONCE: Final = 200
LOW: Final = 100
REMEMBERED: Final = 4 * MOST_PENDING


class Arrival(Enum):
    """What became of something that came from the server."""

    TAKEN = auto()
    ACKNOWLEDGED_BEFORE = auto()
    """It is settled, and the server does not know; acknowledge it again."""
    GAP = auto()
    """Somebody else was given what lies between: what is pending has to be read again."""


@dataclass(slots=True)
class Pull(Share):
    """A share that is pulled.

    The server numbers its deliveries, whoever gets them: by a missing number it shows that another instance, or a
    connection that is lost, got something.

    Attributes:
        stream: the stream of its channel.
        durable: the consumer of its partition.
        inbox: the subscription to which what is asked for comes; none while nothing is.
        foreign: how messages of the channel are read that are no CloudEvents.
        replies: where each message that is here is acknowledged, by its sequence in the stream; empty where it was read
            from the stream and has still to come from the consumer.
        settled: sequences of those settled last.
        following: the number of the next delivery.
        asked: how many were asked for and have not come.
        asked_until: when they will not come any more.
        ask_from: the earliest time to ask again.
        came: what has come and was not looked at.
    """

    stream: str = ""
    durable: str = ""
    foreign: ForeignMessages | None = None
    inbox: Any = None
    replies: dict[int, str] = field(default_factory=dict[int, str])
    settled: OrderedDict[int, None] = field(default_factory=OrderedDict[int, None])
    following: int = 0
    asked: int = 0
    asked_until: float = 0.0
    ask_from: float = 0.0
    came: deque[Any] = field(default_factory=deque[Any])

    def ask(self, now: float, *, within: float) -> int:
        """Return how many to ask for now, and count them as asked for; they come ``within`` so many seconds."""
        is_asked = self.asked > 0 and now < self.asked_until
        if self.token is None or self.inbox is None or is_asked or now < self.ask_from or len(self.ready) >= LOW:
            return 0
        self.asked, self.asked_until = ASK_AT_ONCE - len(self.ready), now + within
        return self.asked

    def ask_again(self, *, from_: float) -> None:
        """Count nothing as asked for, and ask no earlier."""
        self.asked, self.ask_from = 0, from_

    def attach(self, *, following: int) -> None:
        """Begin with the delivery ``following``; what is out stays, all else is found again."""
        for delivery in self.ready:
            self.replies.pop(receipt_of(delivery).order[0], None)
        self.ready.clear()
        self.following = following

    def knows(self, sequence: int) -> bool:
        """Tell whether a message is here, or was settled here."""
        return sequence in self.replies or sequence in self.settled

    def find(self, sequence: int, headers: Mapping[str, str], body: bytes) -> None:
        """Make ready what was read from the stream."""
        self.replies[sequence] = ""
        self.add((sequence,), self._message(sequence, headers, body))

    def take(self, came: Any) -> Arrival:
        """Make ready what came from the consumer."""
        sequence, delivery = _numbers(came.reply)
        if delivery > self.following:
            return Arrival.GAP
        is_new = delivery == self.following
        self.following += is_new
        if sequence in self.replies:
            self.replies[sequence] = came.reply
        elif sequence in self.settled:
            return Arrival.ACKNOWLEDGED_BEFORE
        elif is_new:
            self.replies[sequence] = came.reply
            self.add((sequence,), self._message(sequence, came.headers, came.data))
        return Arrival.TAKEN

    def accept(self, receipts: list[Receipt]) -> list[str]:
        """Settle what is out; return where it is to be acknowledged."""
        replies: list[str] = []
        for receipt in receipts:
            if self.settle([receipt]):
                (sequence,) = receipt.order
                if reply := self.replies.pop(sequence, ""):
                    replies.append(reply)
                self.settled[sequence] = None
        while len(self.settled) > REMEMBERED:
            self.settled.popitem(last=False)
        return replies

    def _message(self, sequence: int, headers: Mapping[str, str] | None, body: bytes) -> Message:
        place = f"{self.stream}/{sequence}"
        return message_from(headers, body, channel=self.channel, place=place, foreign=self.foreign)

    def forget(self) -> None:
        """Have nothing of it."""
        Share.forget(self)
        self.replies.clear()
        self.settled.clear()
        self.came.clear()


def _numbers(reply: str) -> tuple[int, int]:
    """Return, of the subject where a delivery is acknowledged, the sequence in the stream and the delivery's number.

    ``$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer sequence>.<time>.<pending>``; with a domain
    and an account before the stream, and a token at the end, in newer servers.
    """
    tokens = reply.split(".")
    at = 5 if len(tokens) == 9 else 7
    return int(tokens[at]), int(tokens[at + 1])
