"""The sending end: a batch is handed to librdkafka in a thread, and all its confirms are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pillarbox.brokers.kafka.layout import topic_of
from pillarbox.brokers.kafka.translation import is_forbidden
from pillarbox.channel import (
    BrokerCapabilities,
    MessageSender,
    NotReady,
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


def capabilities_of(settings: KafkaSettings) -> BrokerCapabilities:
    """Return what a Kafka is good for.

    librdkafka goes on with later messages of a partition when it gave up an earlier one, so a prefix is not declared.
    """
    return BrokerCapabilities(
        ordered_prefix=False,
        key_affinity=True,
        durable=True,
        transactional=False,
        max_body_bytes=settings.max_body_bytes,
    )


class KafkaSender(MessageSender):
    """Sends from the one thread that ``executor`` has, so that batches do not overtake each other."""

    def __init__(
        self, capabilities: BrokerCapabilities, *, producer: BatchProducer, topics: Topics, executor: ThreadPoolExecutor
    ) -> None:
        """Send through ``producer`` to ``topics``."""
        self._capabilities = capabilities
        self._producer = producer
        self._topics = topics
        self._executor = executor
        self._known = set[str]()

    @property
    def capabilities(self) -> BrokerCapabilities:
        return self._capabilities

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        if not messages:
            return ()
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._send, messages)

    def _send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        try:
            closed = self._look_up({message.destination for message in messages})
        except BrokerUnavailableError as error:
            return [Unavailable(error.reason)] * len(messages)
        objections = [self._objection(message) or closed.get(message.destination) for message in messages]
        wanted = [message for message, objection in zip(messages, objections, strict=True) if objection is None]
        sent = iter(self._producer.send(wanted) if wanted else ())
        results = [next(sent) if objection is None else objection for objection in objections]
        for message, result in zip(messages, results, strict=True):
            if isinstance(result, (NotReady, Unknown)):
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
            if name not in found:
                closed_by = (
                    self._make(name) if is_queue(one) else NotReady(f"nobody subscribes: Kafka has no topic {name}")
                )
                if closed_by is not None:
                    closed[one] = closed_by
                    continue
            self._known.add(one)
        return closed

    def _make(self, name: str) -> SendResult | None:
        try:
            self._topics.make([name])
        except BrokerUnavailableError as error:
            if is_forbidden(error):
                return Refused(f"the topic {name} is not there and may not be made: {error.reason}")
            raise
        return None

    def _objection(self, message: Message) -> SendResult | None:
        limit = self._capabilities.max_body_bytes
        if limit is not None and len(message.body) > limit:
            size = len(message.body)
            return Refused(f"its body is {size} bytes long, at most {limit} fit; raise the option message.max.bytes")
        return None
