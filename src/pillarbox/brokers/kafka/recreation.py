"""Topics that somebody removed and made again under the same name: what lies at an offset there is another message.

Kafka does not tell a consumer: where the new log is long enough already, it reads on in the middle of it. So the
identities of the topics are asked for now and then, beside the reading; nothing here waits for an answer. Whether a
topic has got more partitions is seen beside it, and told in the log: its keys move, out of order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaException

from pillarbox.brokers.kafka.translation import logger

if TYPE_CHECKING:
    from pillarbox.brokers.kafka.topics import Topics
    from pillarbox.clock import Clock

ASK_EVERY_S: Final = 2.0


class RecreationWatch:
    """Compares the identities of topics with those that they had; used by one thread."""

    def __init__(self, names: Sequence[str], *, topics: Topics, clock: Clock) -> None:
        """Watch the topics called ``names``; connects to nothing."""
        self._names = names
        self._topics = topics
        self._clock = clock
        self._client: Any = None
        self._known: dict[str, tuple[str, int]] = {}
        self._answers: Mapping[str, Future[Any]] = {}
        self._ask_from = float("-inf")

    def recreated(self) -> list[str]:
        """Return the topics that are others than they were; each is told of once."""
        if any(not answer.done() for answer in self._answers.values()):
            return []
        answers, self._answers = self._answers, {}
        found = [name for name, answer in answers.items() if self._is_another(name, answer)]
        if self._clock.monotonic() >= self._ask_from:
            self._ask_from = self._clock.monotonic() + ASK_EVERY_S
            self._client = self._client or self._topics.client()
            self._answers = self._topics.describe(self._client, self._names)
        return found

    def _is_another(self, name: str, answer: Future[Any]) -> bool:
        """Note the identity of a topic; one that is not there, or that we may not see, keeps what it had."""
        try:
            found = answer.result()
        except KafkaException:
            return False
        identity, size = str(found.topic_id), len(found.partitions)
        known, size_then = self._known.get(name, (identity, size))
        self._known[name] = identity, size
        if known == identity and size != size_then:
            grown = (
                "the topic %s has %s partitions, and had %s: keys move, and what was sent before may be handled after"
            )
            logger.error(grown, name, size, size_then)
        return known != identity
