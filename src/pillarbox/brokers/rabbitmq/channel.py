"""One channel of a connection: questions and answers, messages that go out and messages that come in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from pamqp import commands
from pamqp.base import Frame

from pillarbox.brokers.rabbitmq import frames
from pillarbox.brokers.rabbitmq.confirms import Batch, Confirms
from pillarbox.brokers.rabbitmq.wire import ANSWER_WITHIN_S, NAME, Receiving, Wire
from pillarbox.errors import BrokerUnavailableError

TakeDelivery: TypeAlias = Callable[[int, bytes, bytes], None]
"""Takes a delivery's tag, its packed properties and its body."""
ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED = 403, 404, 406
_OK: Final = 200


class ChannelClosedError(Exception):
    """The server closed the channel, which is how it refuses.

    Attributes:
        code: why, as AMQP numbers it.
        text: why, in its words.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class Channel(Receiving):
    """A channel; once it is closed, by whomever, another is needed."""

    def __init__(
        self, wire: Wire, *, deliver: TakeDelivery | None = None, wake: Callable[[], None] | None = None
    ) -> None:
        """Open a channel on ``wire`` without waiting for it.

        Args:
            wire: a connection that is not lost.
            deliver: called with each message that comes in.
            wake: called when the channel is closed by others, or with its connection.
        """
        self.wire = wire
        self.closed: ChannelClosedError | BrokerUnavailableError | None = None
        self.is_cancelled = False
        self.known: set[str] = set()
        self.confirms = Confirms()
        self._deliver = deliver
        self._wake = wake
        self._answers: deque[asyncio.Future[Frame]] = deque()
        self._parting = False
        self._of: frames.Method | None = None
        self._envelope = b""
        self._packed = b""
        self._body: list[bytes] = []
        self._missing = 0
        self._publishing: dict[tuple[str, str], bytes] = {}
        self.number = next(number for number in range(1, len(wire.channels) + 2) if number not in wire.channels)
        wire.channels[self.number] = self
        if wire.lost is not None:
            self.lose(wire.lost)
        self._opening = self.put(commands.Channel.Open())

    def put(self, question: Frame) -> asyncio.Future[Frame]:
        """Ask; the answer comes in the order of the questions."""
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_retrieve)
        if self.closed is not None:
            answer.set_exception(self.closed)
            return answer
        self._answers.append(answer)
        self.wire.write(frames.method_frame(question, self.number))
        return answer

    async def ask(self, *questions: Frame, within_s: float = ANSWER_WITHIN_S) -> Sequence[Frame]:
        """Ask everything at once, and wait for the answers.

        Raises:
            ChannelClosedError: the server refused; what followed was not done.
            BrokerUnavailableError: the connection is lost, or gave no answer in time.
        """
        answers = [self.put(question) for question in questions]
        try:
            async with asyncio.timeout(within_s):
                await self._opening
                return [await answer for answer in answers]
        except TimeoutError as error:
            reason = f"no answer in {within_s:g} s"
            self.wire.abort(reason)
            raise BrokerUnavailableError(broker=NAME, reason=reason) from error

    def publish(self, batch: Batch, place: int, packed: bytes, *, exchange: str, routing_key: str) -> int:
        """Send a message with its packed properties; return how many bytes go out."""
        address = (exchange, routing_key)
        publishing = self._publishing.get(address)
        if publishing is None:
            publishing = self._publishing[address] = frames.publish_frame(self.number, exchange, routing_key)
        body = batch.messages[place].body
        self.confirms.sent(batch, place)
        if self.closed is not None:
            self.confirms.lost(_reason(self.closed))
            return 0
        content = frames.content_frames(self.number, packed, body, frame_max=self.wire.frame_max)
        self.wire.write(publishing + content)
        return len(content)

    def acknowledge(self, tags: Sequence[tuple[int, bool]]) -> None:
        """Acknowledge deliveries by their tags, each alone or with all before it.

        Once it is closed, the number may be another channel's, whose tags would be meant: what came by it comes again.
        """
        if self.closed is None:
            self.wire.write(b"".join([frames.ack_frame(self.number, tag, multiple=multiple) for tag, multiple in tags]))

    def leave(self) -> None:
        """Close it without waiting: whatever was delivered and not acknowledged goes back to its queue, in order."""
        if self.closed is None:
            goodbye = commands.Channel.Close(reply_code=_OK, reply_text="", class_id=0, method_id=0)
            self.wire.write(frames.method_frame(goodbye, self.number))
            self._parting = True
            self._end(BrokerUnavailableError(broker=NAME, reason="the channel was closed"))

    def take(self, kind: int, payload: bytes) -> None:
        """Take a frame."""
        if kind == frames.BODY:
            self._body.append(payload)
            self._missing -= len(payload)
        elif kind == frames.HEADER:
            self._packed = payload
            self._missing = frames.body_size_of(payload)
        elif kind == frames.METHOD:
            self._take_method(frames.method_of(payload), payload)
            return
        if self._missing <= 0 and self._of is not None:
            self._take_content()

    def lose(self, reason: str) -> None:
        """Learn that the connection is lost."""
        self._end(BrokerUnavailableError(broker=NAME, reason=reason))

    def _take_method(self, method: frames.Method, payload: bytes) -> None:
        if method in (frames.ACK, frames.NACK):
            tag, multiple = frames.read_confirm(payload)
            self.confirms.answered(tag, multiple=multiple, kept=method == frames.ACK)
        elif method in (frames.DELIVER, frames.RETURN):
            self._of, self._envelope = method, payload
        else:
            self._take_rare(frames.read_method(payload))

    def _take_rare(self, method: Frame) -> None:
        if isinstance(method, commands.Channel.CloseOk):
            self.wire.channels.pop(self.number, None)
        elif isinstance(method, commands.Channel.Close):
            self.wire.write(frames.method_frame(commands.Channel.CloseOk(), self.number))
            if not self._parting:  # else the answer to our own farewell follows
                self.wire.channels.pop(self.number, None)
            self._end(ChannelClosedError(method.reply_code or 0, method.reply_text))
        elif self._parting:
            return
        elif isinstance(method, commands.Basic.Cancel):
            self.is_cancelled = True
            self.leave()  # the queue is gone, or its leader, or patience with us: whoever opens again finds out
            self._call_wake()
        elif self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_result(method)

    def _take_content(self) -> None:
        method, self._of = self._of, None
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        if self.closed is not None:
            return
        if method == frames.RETURN:
            returned = frames.read_method(self._envelope)
            assert isinstance(returned, commands.Basic.Return)
            self.confirms.returned(returned.exchange, frames.read_properties(self._packed).message_id)
            self.known.discard(returned.exchange)
        elif self._deliver is not None:
            self._deliver(frames.read_delivery_tag(self._envelope), self._packed, body)

    def _end(self, closed: ChannelClosedError | BrokerUnavailableError) -> None:
        if self.closed is not None:
            return
        self.closed = closed
        answers, self._answers = self._answers, deque()
        for answer in answers:
            if not answer.done():
                answer.set_exception(closed)
        self.confirms.lost(_reason(closed))
        self._call_wake()

    def _call_wake(self) -> None:
        if self._wake is not None:
            self._wake()


def _reason(closed: ChannelClosedError | BrokerUnavailableError) -> str:
    return closed.reason if isinstance(closed, BrokerUnavailableError) else str(closed)


def _retrieve(answer: asyncio.Future[Frame]) -> None:
    """Look at the exception of a question that nobody waits for any more."""
    if not answer.cancelled():
        answer.exception()
