"""Sends batches through librdkafka and waits for all their confirms. Blocks; used by one thread at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from pillarbox.brokers.kafka.introductions import Introductions
from pillarbox.brokers.kafka.layout import topic_of
from pillarbox.brokers.kafka.records import headers_of, key_of
from pillarbox.brokers.kafka.translation import CLIENT_LOG, error_of, result_of
from pillarbox.channel import Confirmed, NotSent, Refused, SendResult, Unavailable, Unknown

if TYPE_CHECKING:
    from pillarbox.brokers.kafka.settings import KafkaSettings
    from pillarbox.clock import Clock
    from pillarbox.message import Message

CONNECT_WITHIN_S: Final = 2.0
PURGED_WITHIN_S: Final = 0.5
_POLL_S: Final = 0.1
_CONFIRMED: Final = Confirmed()
_NOT_SENT: Final = NotSent()


class _Batch:
    """What is known of the messages of a batch, by their places."""

    def __init__(self, size: int) -> None:
        self.results: list[SendResult | None] = [_NOT_SENT] * size
        self.partitions: dict[int, int] = {}
        self.waiting = 0
        self.broken = False

    def expect(self, place: int) -> None:
        """Have one message handed over, of which a report is to come."""
        self.results[place] = None
        self.waiting += 1

    def note(self, place: int, error: KafkaError | None, record: Any = None) -> None:
        """Take the report of one message."""
        self.waiting -= 1
        if error is None:
            self.results[place] = _CONFIRMED
            self.partitions[place] = record.partition()
        else:
            self.results[place] = result_of(error)
            self.broken = True


class BatchProducer:
    """An idempotent producer that is thrown away at the first failure, so that nothing overtakes it.

    Each server has one request at a time, and the client stops for good at a request that is refused, as
    ``enable.gapless.guarantee`` has it; what it sends even then is refused by a partition that knows the producer, and
    to others nothing of a key is sent before its first message is stored. It never gives a message up by itself: a
    batch that is not confirmed in time is purged here, and with it what was not sent yet.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        """Send to the servers of ``settings``; connects to nothing."""
        self._settings = settings
        self._clock = clock
        self._producer: Any = None
        self._introductions = Introductions()

    def send(self, messages: Sequence[Message]) -> list[SendResult]:
        """Send ``messages`` to topics that are there, and wait for all confirms.

        A server refuses a request as a whole. Which message of it is to blame is found by sending one after the other.
        """
        deadline = self._clock.monotonic() + self._settings.confirm_within.total_seconds()
        results = self._send(messages, deadline)
        if len(messages) > 1 and any(isinstance(one, Refused) for one in results):
            self._send_singly(messages, results, deadline)
        return results

    def close(self) -> None:
        """Forget what is not confirmed, and disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            _poll(producer, 0)

    def _send_singly(self, messages: Sequence[Message], results: list[SendResult], deadline: float) -> None:
        """Send what was not confirmed; of each key up to its first failure."""
        stopped = set[tuple[str, str]]()
        for place, message in enumerate(messages):
            if isinstance(results[place], Confirmed):
                continue
            in_order_with = (message.destination, key_of(message))
            if in_order_with in stopped:
                results[place] = _NOT_SENT
            elif self._clock.monotonic() < deadline:
                (results[place],) = self._send([message], deadline)
            elif not isinstance(results[place], Unknown):
                results[place] = _NOT_SENT
            if not isinstance(results[place], Confirmed):
                stopped.add(in_order_with)

    def _send(self, messages: Sequence[Message], deadline: float) -> list[SendResult]:
        try:
            producer = self._producer or self._connect(topic_of(messages[0].destination))
            size_of, now = partial(self._size_of, deadline), self._clock.monotonic()
            ahead, behind = self._introductions.divide(messages, size_of=size_of, now=now)
        except KafkaException as exception:
            return [Unavailable(error_of(exception).str())] * len(messages)
        batch = _Batch(len(messages))
        self._send_places(producer, messages, ahead, batch, deadline)
        for place, partition in batch.partitions.items():
            self._introductions.note(messages[place], partition)
        if not batch.waiting and not batch.broken:
            self._send_places(producer, messages, behind, batch, deadline)
        if batch.waiting or batch.broken:
            self.close()
            self._await_purge(producer, batch)
        return [Unknown("it gave no confirm in time") if one is None else one for one in batch.results]

    def _send_places(
        self, producer: Any, messages: Sequence[Message], places: Iterable[int], batch: _Batch, deadline: float
    ) -> None:
        """Send those of ``messages`` that are at ``places``, and wait for their confirms while all goes well."""
        for place in places:
            batch.expect(place)
            error = self._hand_over(producer, messages[place], partial(batch.note, place), deadline)
            if error is not None:
                batch.note(place, error)
                break
        while batch.waiting and not batch.broken and self._clock.monotonic() < deadline:
            _poll(producer, _POLL_S, batch)

    def _await_purge(self, producer: Any, batch: _Batch) -> None:
        """Collect what the client knows of messages that were purged: never sent, or perhaps stored."""
        deadline = self._clock.monotonic() + PURGED_WITHIN_S
        while batch.waiting and self._clock.monotonic() < deadline:
            _poll(producer, _POLL_S)

    def _connect(self, topic: str) -> Any:
        """Make a producer that has reached a server; one that has not waits for half a second before its first request.

        Raises:
            KafkaException: there is no server.
        """
        producer: Any = Producer(self._settings.producer(), logger=CLIENT_LOG)
        producer.list_topics(topic, timeout=CONNECT_WITHIN_S)
        self._producer, self._introductions = producer, Introductions()
        return producer

    def _size_of(self, deadline: float, channel: str) -> int:
        """Return how many partitions a topic has, 0 where the server does not tell.

        Raises:
            KafkaException: no server answers.
        """
        topic = topic_of(channel)
        within = max(_POLL_S, min(CONNECT_WITHIN_S, deadline - self._clock.monotonic()))
        return len(self._producer.list_topics(topic, timeout=within).topics[topic].partitions)

    def _hand_over(self, producer: Any, message: Message, report: object, deadline: float) -> KafkaError | None:
        while True:
            try:
                producer.produce(
                    topic_of(message.destination),
                    message.body,
                    key_of(message),
                    headers=headers_of(message),
                    on_delivery=report,
                )
            except KafkaException as exception:
                return error_of(exception)
            except BufferError:  # too much waits for its confirm already
                if self._clock.monotonic() > deadline:
                    return KafkaError(KafkaError._QUEUE_FULL)  # pyright: ignore[reportPrivateUsage]
                _poll(producer, _POLL_S)
            else:
                return None


def _poll(producer: Any, within_s: float, batch: _Batch | None = None) -> None:
    """Have reports taken; that the producer can go on no more is raised by the client in the middle of them."""
    try:
        producer.poll(within_s)
    except KafkaException:
        if batch is not None:
            batch.broken = True
