"""Sends batches through librdkafka and waits for all their confirms. Blocks; used by one thread at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from pillarbox.brokers.kafka.layout import topic_of
from pillarbox.brokers.kafka.records import headers_of, key_of
from pillarbox.brokers.kafka.translation import TOO_LARGE, error_of, logger, result_of
from pillarbox.channel import Confirmed, SendResult, Unknown

if TYPE_CHECKING:
    from pillarbox.brokers.kafka.settings import KafkaSettings
    from pillarbox.clock import Clock
    from pillarbox.message import Message

GRACE: Final = 1.25
"""How much longer than promised the client may take to report that it gave a message up."""
_POLL_S: Final = 0.1
_CONFIRMED: Final = Confirmed()


@dataclass(slots=True)
class _Batch:
    """What is known of the messages of a batch, by their places."""

    results: list[SendResult | None]
    waiting: int = 0
    too_large: list[int] = field(default_factory=list[int])
    broken: bool = False

    def note(self, place: int, error: KafkaError | None, _message: object = None) -> None:
        """Take the report of one message."""
        self.waiting -= 1
        if error is None:
            self.results[place] = _CONFIRMED
            return
        self.results[place] = result_of(error)
        self.broken = self.broken or bool(error.fatal())
        if error.code() in TOO_LARGE:
            self.too_large.append(place)


class BatchProducer:
    """An idempotent producer that is thrown away when the client can no longer vouch for its order."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        """Send to the servers of ``settings``; connects to nothing."""
        self._settings = settings
        self._clock = clock
        self._producer: Any = None

    def send(self, messages: Sequence[Message]) -> list[SendResult]:
        """Send ``messages`` to topics that are there, and wait for all confirms.

        A server refuses a request as a whole when it is too large for its topic; which message is to blame is found by
        sending each of it alone.
        """
        results, too_large = self._send(messages)
        if len(messages) > 1:
            for place in too_large:
                (results[place],), _ = self._send([messages[place]])
        return results

    def close(self) -> None:
        """Forget what is not confirmed, and disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.poll(0)

    def _send(self, messages: Sequence[Message]) -> tuple[list[SendResult], list[int]]:
        producer = self._open()
        batch = _Batch([None] * len(messages))
        deadline = self._clock.monotonic() + self._settings.confirm_within.total_seconds() * GRACE
        for place, message in enumerate(messages):
            batch.waiting += 1
            error = self._hand_over(producer, message, partial(batch.note, place), deadline)
            if error is not None:
                batch.note(place, error)
        while batch.waiting and self._clock.monotonic() < deadline:
            producer.poll(_POLL_S)
        if batch.waiting or batch.broken:
            logger.warning("the producer is made anew: %s of %s unconfirmed", batch.waiting, len(messages))
            self.close()
        results = [Unknown("it gave no confirm in time") if one is None else one for one in batch.results]
        return results, batch.too_large

    def _open(self) -> Any:
        if self._producer is None:
            self._producer = Producer(self._settings.producer())
        return self._producer

    def _hand_over(self, producer: Any, message: Message, report: object, deadline: float) -> KafkaError | None:
        while True:
            try:
                producer.produce(
                    topic_of(message.destination),
                    message.body,
                    key_of(message).encode(),
                    headers=headers_of(message),
                    on_delivery=report,
                )
            except KafkaException as exception:
                return error_of(exception)
            except BufferError:  # too much waits for its confirm already
                if self._clock.monotonic() > deadline:
                    return KafkaError(KafkaError._QUEUE_FULL)  # pyright: ignore[reportPrivateUsage]
                producer.poll(_POLL_S)
            else:
                return None
