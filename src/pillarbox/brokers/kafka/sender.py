"""The sending end: a batch is handed to librdkafka in a thread, and all its confirms are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pillarbox.brokers.kafka.layout import topic_of
from pillarbox.brokers.kafka.records import key_of
from pillarbox.brokers.kafka.translation import is_forbidden
from pillarbox.channel import (
    BrokerCapabilities,
    MessageSender,
    NotReady,
    NotSent,
    Refused,
    SendResult,
    Unavailable,
    Unknown,
    is_queue,
)
from pillarbox.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from pillarbox.brokers.kafka.producer import BatchProducer
    from pillarbox.brokers.kafka.settings import KafkaSettings
    from pillarbox.brokers.kafka.topics import Topics
    from pillarbox.message import Message


CAPABILITIES: Final = BrokerCapabilities(ordered_prefix=True, key_affinity=True, durable=True, transactional=False)


def capabilities_of(settings: KafkaSettings) -> BrokerCapabilities:
    """Return what a Kafka is good for that takes bodies as large as ``settings`` say."""
    return replace(CAPABILITIES, max_body_bytes=settings.max_body_bytes)


class KafkaSender(MessageSender):
    """Sends from the one thread that ``executor`` has, so that batches do not overtake each other."""

    def __init__(
        self, settings: KafkaSettings, *, producer: BatchProducer, topics: Topics, executor: ThreadPoolExecutor
    ) -> None:
        """Send through ``producer`` to ``topics``."""
        self._settings = settings
        self._producer = producer
        self._topics = topics
        self._executor = executor
        self._known = set[str]()

    @property
    def capabilities(self) -> BrokerCapabilities:
        return capabilities_of(self._settings)

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        if not messages:
            return ()
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._send, messages)

    def _send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        try:
            closed = self._look_up({message.destination for message in messages})
        except BrokerUnavailableError as error:
            return [Unavailable(error.reason)] * len(messages)
        objections = self._objections(messages, closed)
        wanted = [message for message, objection in zip(messages, objections, strict=True) if objection is None]
        sent = iter(self._producer.send(wanted) if wanted else ())
        results = [next(sent) if objection is None else objection for objection in objections]
        for message, result in zip(messages, results, strict=True):
            if isinstance(result, (NotReady, Unavailable, Unknown)):  # the topic may be gone, not only the server
                self._known.discard(message.destination)  # to be looked at before more comes to an unknown end
        return results

    def _look_up(self, destinations: Iterable[str]) -> dict[str, SendResult]:
        """Return those destinations that take nothing, and why; a queue that is not there is made.

        A queue keeps its messages for a consumer that comes later; for a topic nobody would keep them.

        Raises:
            BrokerUnavailableError: there is nobody to ask.
        """
        new = [one for one in destinations if one not in self._known]
        found = self._topics.find([topic_of(one) for one in new])
        closed: dict[str, SendResult] = {}
        for one in new:
            name = topic_of(one)
            absent = NotReady(f"nobody subscribes to it: there is no topic {name} in Kafka")
            closed_by = None if name in found else self._make(name) if is_queue(one) else absent
            if closed_by is None:
                self._known.add(one)
            else:
                closed[one] = closed_by
        return closed

    def _make(self, name: str) -> SendResult | None:
        try:
            self._topics.make([name])
        except BrokerUnavailableError as error:
            if is_forbidden(error):
                return Refused(f"the topic {name} is not there and may not be made: {error.reason}")
            raise
        return None

    def _objections(self, messages: Sequence[Message], closed: Mapping[str, SendResult]) -> list[SendResult | None]:
        """Say of each message why it is not even tried; behind one that is refused its key waits."""
        limit = self._settings.max_body_bytes
        stopped = set[tuple[str, str]]()
        objections: list[SendResult | None] = []
        for message in messages:
            objection = closed.get(message.destination)
            if objection is None and len(message.body) > limit:
                size = len(message.body)
                objection = Refused(f"its body is {size} bytes long, {limit} fit; raise the option message.max.bytes")
            in_order_with = (message.destination, key_of(message))
            if stopped and in_order_with in stopped:
                objection = NotSent()
            elif isinstance(objection, Refused):
                stopped.add(in_order_with)
            objections.append(objection)
        return objections
