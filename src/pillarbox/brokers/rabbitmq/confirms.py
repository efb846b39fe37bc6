"""Which messages wait for the server's word, and what it said of each: pure book-keeping."""

from __future__ import annotations

import re
from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pillarbox.channel import Confirmed, NotReady, NotSent, Refused, SendResult, Unknown
from pillarbox.message import Message

CONFIRMED: Final = Confirmed()
NOT_SENT: Final = NotSent()
_FORBIDDEN: Final = re.compile(r"access to exchange '([^']+)'")
_TOO_LARGE: Final = re.compile(r"message size (\d+) .*max size (\d+)")


@dataclass(slots=True)
class Batch:
    """Messages that are sent together.

    Attributes:
        results: one for each message.
        left: how many were sent of which the server has said nothing yet.
        settled: done once nothing is left; replaced whenever something is waited for again.
    """

    messages: Sequence[Message]
    results: list[SendResult]
    left: int = 0
    settled: Future[None] | None = None

    def settle(self, place: int, result: SendResult) -> None:
        """Note what became of a message that was sent."""
        self.results[place] = result
        self.left -= 1
        if not self.left and self.settled is not None and not self.settled.done():
            self.settled.set_result(None)


@dataclass(slots=True)
class _Sent:
    """A message on its way; ``returned`` once the server found nobody to keep it."""

    batch: Batch
    place: int
    returned: bool = False

    @property
    def message(self) -> Message:
        return self.batch.messages[self.place]


@dataclass(slots=True)
class Confirms:
    """What a channel has sent, by the numbers that the server counts along with."""

    last: int = 0
    pending: dict[int, _Sent] = field(default_factory=dict[int, _Sent])

    def sent(self, batch: Batch, place: int) -> None:
        """Note that a message goes out now."""
        self.last += 1
        self.pending[self.last] = _Sent(batch, place)
        batch.left += 1
        batch.results[place] = Unknown("the server has not confirmed it")

    def returned(self, destination: str, message_id: str | None) -> None:
        """Note that the server gave a message back; it confirms it all the same, later.

        Messages come back in the order they were sent, so it is the first that fits.
        """
        for sent in self.pending.values():
            if not sent.returned and sent.message.id == message_id and sent.message.destination == destination:
                sent.returned = True
                return

    def answered(self, tag: int, *, multiple: bool, kept: bool) -> None:
        """Note the server's word on the message ``tag``, or on all up to it."""
        for number in self._up_to(tag) if multiple else [tag]:
            sent = self.pending.pop(number, None)
            if sent is not None:
                sent.batch.settle(sent.place, _result(sent, kept=kept))

    def lost(self, reason: str) -> None:
        """Note that the server will say nothing any more, and why it said so.

        What it named as too large is refused, and what was to go where it lets us not publish.
        """
        pending, self.pending = self.pending, {}
        sizes, forbidden = _TOO_LARGE.search(reason), _FORBIDDEN.search(reason)
        for sent in pending.values():
            result: SendResult = Unknown(reason)
            if sent.returned:
                result = _result(sent, kept=True)
            elif sizes is not None and len(sent.message.body) > int(sizes[2]):
                result = Refused(f"its body is {len(sent.message.body)} bytes long, the server takes {sizes[2]}")
            elif forbidden is not None and forbidden[1] == sent.message.destination:
                result = Refused(reason)
            sent.batch.settle(sent.place, result)

    def leave_open(self, batch: Batch) -> None:
        """Note that nobody waits any longer for the server's word on the rest of ``batch``."""
        for number in [number for number, sent in self.pending.items() if sent.batch is batch]:
            sent = self.pending.pop(number)
            batch.settle(
                sent.place, NotReady(f"{sent.message.destination} does not confirm, though the server answers")
            )

    def _up_to(self, tag: int) -> list[int]:
        numbers: list[int] = []
        for number in self.pending:  # in the order in which they were sent
            if number > tag:
                break
            numbers.append(number)
        return numbers


def _result(sent: _Sent, *, kept: bool) -> SendResult:
    if sent.returned:
        return NotReady(f"no queue takes what goes to {sent.message.destination}")
    if kept:
        return CONFIRMED
    return NotReady(f"a queue of {sent.message.destination} rejected it: it is full, or its leader is away")
