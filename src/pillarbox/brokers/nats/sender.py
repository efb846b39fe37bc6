"""The sending end: a batch goes out at once, and each message of it is confirmed by itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

import msgspec
from nats.errors import Error as NatsError

from pillarbox.brokers.nats.api import JetStream, Refusal
from pillarbox.brokers.nats.connection import ANSWER_WITHIN_S, Link, NatsConnection, unavailable
from pillarbox.brokers.nats.consumers import make_stream
from pillarbox.brokers.nats.headers import block_of, status_of
from pillarbox.brokers.nats.layout import stream_of, subject_of
from pillarbox.brokers.partitions import partition_of
from pillarbox.channel import (
    BrokerCapabilities,
    Confirmed,
    MessageSender,
    NotReady,
    NotSent,
    Refused,
    SendResult,
    Unavailable,
    Unknown,
    is_queue,
)
from pillarbox.errors import BrokerUnavailableError, ConfigurationError, InvalidMessageError
from pillarbox.message import Message

CAPABILITIES: Final = BrokerCapabilities(ordered_prefix=False, key_affinity=True, durable=True, transactional=False)
TOO_LARGE_FOR_THE_STREAM: Final = 10054
NOT_STORED: Final = 10077
"""The stream itself would not: it is full, or cannot write."""
NO_RESPONDERS: Final = "503"
_FORBIDDEN: Final = re.compile(r'permissions violation for publish to "([^"]+)"')

_WHY_NOTHING: Final = "it has no leader now, or somebody changed its subjects"
_CONFIRMED: Final = Confirmed()
_NOT_SENT: Final = NotSent()
_NOBODY: Final = NotReady("")
"""Stands, until it is looked at, for a message that no stream took."""


class _Error(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _Answer(msgspec.Struct):
    error: _Error | None = None
    stream: str = ""


_answer_of = msgspec.json.Decoder(_Answer).decode


class NatsSender(MessageSender):
    """Publishes to streams. What follows a message that is not stored may be stored all the same."""

    def __init__(self, connection: NatsConnection, jetstream: JetStream, *, replicas: int) -> None:
        """Publish over ``connection``; queues that are missing are made with ``replicas``."""
        self._connection = connection
        self._jetstream = jetstream
        self._replicas = replicas

    @property
    def capabilities(self) -> BrokerCapabilities:
        return CAPABILITIES

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        results: list[SendResult] = [_NOT_SENT] * len(messages)
        await self._publish(messages, range(len(messages)), results)
        missing = {messages[place].destination: place for place, result in enumerate(results) if result is _NOBODY}
        for destination in missing:
            places = [
                place
                for place, result in enumerate(results)
                if result is _NOBODY and messages[place].destination == destination
            ]
            await self._nobody_took(destination, places, messages, results)
        return results

    async def _nobody_took(
        self, destination: str, places: Sequence[int], messages: Sequence[Message], results: list[SendResult]
    ) -> None:
        """Find out why no stream took messages; a queue that was missing is made, and they are sent again."""
        name = stream_of(destination)
        verdict: SendResult = NotReady(f"the stream {name} is there and takes nothing: {_WHY_NOTHING}")
        try:
            if await self._jetstream.stream(name) is None:
                verdict = NotReady(f"nobody subscribes to {destination}")
                if is_queue(destination):
                    await make_stream(self._jetstream, destination, replicas=self._replicas)
                    await self._publish(messages, places, results)
        except (BrokerUnavailableError, Refusal) as error:
            verdict = Unavailable(error.reason)
        except ConfigurationError as error:  # somebody else has made it meanwhile
            verdict = NotReady(str(error))
        for place in places:
            if results[place] is _NOBODY:
                results[place] = verdict

    async def _publish(self, messages: Sequence[Message], places: Iterable[int], results: list[SendResult]) -> None:
        """Publish some of ``messages`` and set their results."""
        try:
            link = await self._connection.link()
        except BrokerUnavailableError as error:
            for place in places:
                results[place] = Unavailable(error.reason)
            return
        confirms = _Confirms(results)
        link.watchers.add(confirms.done)
        link.hearing.add(confirms.hear)
        try:
            async with _subscribed(link, confirms) as inbox, asyncio.timeout(ANSWER_WITHIN_S):
                await _publish_all(link, inbox, messages, places, confirms)
                await confirms.done.wait()
        except (NatsError, OSError, TimeoutError) as error:
            confirms.give_up(unavailable(error).reason)
        finally:
            link.watchers.discard(confirms.done)
            link.hearing.discard(confirms.hear)
            confirms.give_up("the connection was lost before the confirm came")


@asynccontextmanager
async def _subscribed(link: Link, confirms: _Confirms) -> AsyncGenerator[str]:
    """Have ``confirms`` take what comes to an inbox of its own."""
    inbox = link.client.new_inbox()
    answers = await link.client.subscribe(f"{inbox}.*", cb=confirms.take)
    try:
        yield inbox
    finally:
        with suppress(NatsError, OSError):  # a lost connection has no subscriptions either
            await answers.unsubscribe()


async def _publish_all(
    link: Link, inbox: str, messages: Sequence[Message], places: Iterable[int], confirms: _Confirms
) -> None:
    limit = link.client.max_payload
    for place in places:
        message = messages[place]
        try:
            headers = block_of(message)
        except InvalidMessageError as error:
            confirms.refuse(place, error.reason)
            continue
        size = len(headers) + len(message.body)
        if size > limit:
            confirms.refuse(place, f"{size} bytes with its headers; this server takes {limit} (max_payload)")
            continue
        subject = subject_of(message.destination, partition_of(message))
        confirms.expect(place, subject, stream_of(message.destination))
        await link.publish(subject, message.body, reply=f"{inbox}.{place}", headers=headers)
    confirms.all_sent()


class _Sent(NamedTuple):
    subject: str
    stream: str


class _Confirms:
    """The confirms of one batch as they come."""

    def __init__(self, results: list[SendResult]) -> None:
        self._results = results
        self._open: dict[int, _Sent] = {}
        self._is_all_sent = False
        self.done = asyncio.Event()

    def expect(self, place: int, subject: str, stream: str) -> None:
        """Note that a message is on its way to ``subject``, for ``stream`` to store."""
        self._open[place] = _Sent(subject, stream)

    def refuse(self, place: int, reason: str) -> None:
        """Note that a message cannot be sent."""
        self._results[place] = Refused(reason)

    def all_sent(self) -> None:
        """Note that no more will be sent."""
        self._is_all_sent = True
        self._look()

    async def take(self, answer: Any) -> None:
        """Note what came for one message."""
        place = int(answer.subject.rpartition(".")[2])
        if place in self._open:
            self._results[place] = _judge(answer, self._open.pop(place))
            self._look()

    def hear(self, said: str) -> None:
        """Note what the server says by itself: it gives no confirm to what it forbids."""
        forbidden = _FORBIDDEN.search(said)
        if forbidden is None:
            return
        for place in [place for place, sent in self._open.items() if sent.subject == forbidden[1]]:
            del self._open[place]
            self.refuse(place, said)
        self._look()

    def give_up(self, reason: str) -> None:
        """Note that nothing more will come."""
        for place in self._open:
            self._results[place] = Unknown(reason)
        self._open.clear()

    def _look(self) -> None:
        if self._is_all_sent and not self._open:
            self.done.set()


def _judge(answer: Any, sent: _Sent) -> SendResult:
    if not answer.data:
        status = status_of(answer.headers)
        return _NOBODY if status == NO_RESPONDERS else Unavailable(f"the server answered {status or 'nothing'}")
    try:
        found = _answer_of(answer.data)
    except msgspec.MsgspecError:
        return Unknown("the server's answer is no confirm")
    error = found.error
    if error is None:
        return _CONFIRMED if found.stream == sent.stream else NotReady(_taken_by(found.stream, sent))
    if error.err_code == TOO_LARGE_FOR_THE_STREAM:
        return Refused(error.description)
    if error.err_code == NOT_STORED:
        return NotReady(error.description)
    return Unavailable(error.description)


def _taken_by(stream: str, sent: _Sent) -> str:
    """Say that a stream of somebody else stored it, which no consumer of ours reads."""
    return (
        f"the stream {stream!r} takes {sent.subject}, and not {sent.stream}, which consumers read; narrow the subjects "
        "of the stream that has them, or remove it"
    )
