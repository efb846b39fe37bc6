"""Sends batches through librdkafka and waits for all their confirms. Blocks; used by one thread at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

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


@dataclass(slots=True)
class _Batch:
    """What is known of the messages of a batch, by their places."""

    results: list[SendResult | None]
    waiting: int = 0
    broken: bool = False

    def note(self, place: int, error: KafkaError | None, _message: object = None) -> None:
        """Take the report of one message."""
        self.waiting -= 1
        self.results[place] = _CONFIRMED if error is None else result_of(error)
        self.broken = self.broken or error is not None


class BatchProducer:
    """An idempotent producer that is thrown away at the first failure, so that nothing overtakes it.

    Each server has one request at a time, and the client stops for good at a request that is refused, as
    ``enable.gapless.guarantee`` has it. It never gives a message up by itself: a batch that is not confirmed in time is
    purged here, and with it what was not sent yet.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        """Send to the servers of ``settings``; connects to nothing."""
        self._settings = settings
        self._clock = clock
        self._producer: Any = None

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
        except KafkaException as exception:
            return [Unavailable(error_of(exception).str())] * len(messages)
        batch = _Batch([None] * len(messages))
        for place, message in enumerate(messages):
            batch.waiting += 1
            error = self._hand_over(producer, message, partial(batch.note, place), deadline)
            if error is not None:
                batch.note(place, error)
                batch.results[place + 1 :] = [_NOT_SENT] * (len(messages) - place - 1)
                break
        while batch.waiting and not batch.broken and self._clock.monotonic() < deadline:
            _poll(producer, _POLL_S, batch)
        if batch.waiting or batch.broken:
            self.close()
            self._await_purge(producer, batch)
        return [Unknown("it gave no confirm in time") if one is None else one for one in batch.results]

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
        self._producer = producer
        return producer

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
