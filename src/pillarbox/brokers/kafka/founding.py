"""A consumer's first place on its topics. Blocks; called in threads.

It is written by a member of the group: of several instances that declare the same at the same time only the one that
has a partition writes its place, so that none is moved over messages that came after another had declared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from pillarbox.brokers.kafka.topics import ANSWER_WITHIN_S
from pillarbox.brokers.kafka.translation import NAME, error_of, logger
from pillarbox.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from pillarbox.brokers.kafka.settings import KafkaSettings
    from pillarbox.clock import Clock

FOUND_WITHIN_S: Final = 30.0
LEAVE_TO_OTHERS_AFTER_S: Final = 5.0
YOUNG_S: Final = 600.0
"""For so long a topic is new: what it has by then may have waited for its first consumer."""
_POLL_S: Final = 0.05


class Founder:
    """Gives one consumer its places."""

    def __init__(
        self, group: str, *, settings: KafkaSettings, clock: Clock, readers_of: Callable[[str], Collection[str]]
    ) -> None:
        """Found places of ``group``; ``readers_of`` tells which groups have a place on a topic.

        It is asked once a topic, which takes as long as there are groups; and all its partitions begin alike though
        another group founds its places at the same time.
        """
        self._group = group
        self._settings = settings
        self._clock = clock
        self._readers_of = cache(readers_of)
        self._new: list[str] | None = None
        self._trouble = "no answer"
        self._leave_at = float("inf")

    def found(self, topics: Mapping[str, int], *, from_now_on: Sequence[str]) -> None:
        """Give the group a place on every partition of those ``topics`` on which it has none.

        Args:
            topics: their numbers of partitions.
            from_now_on: the topics on which it begins with what comes after this returned; on the others, and on one
                that is new and has no other group, it begins with the oldest.

        Raises:
            BrokerUnavailableError: the servers are away, or the group does not let us in.
        """
        consumer: Any = Consumer(self._settings.consumer(self._group))
        deadline = self._clock.monotonic() + FOUND_WITHIN_S
        try:
            while not self._is_founded(consumer, topics, set(from_now_on)):
                if self._clock.monotonic() > deadline:
                    reason = f"{self._group} got no place on {', '.join(topics)} in time: {self._trouble}"
                    raise BrokerUnavailableError(broker=NAME, reason=reason)
        finally:
            consumer.close()

    def _is_founded(self, consumer: Any, topics: Mapping[str, int], from_now_on: set[str]) -> bool:
        """Do what can be done now; a topic that was made a moment ago has no leader yet."""
        try:
            if self._new is None:
                new = [name for name, size in topics.items() if not any(self._places(consumer, name, size))]
                if new:
                    consumer.subscribe(new, on_assign=self._on_assign)
                self._new = new
            if all(all(self._places(consumer, name, topics[name])) for name in self._new):
                return True
            if self._clock.monotonic() > self._leave_at:
                logger.warning(
                    "%s has members at work on %s, and no place there yet", self._group, ", ".join(self._new)
                )
                return True
            consumer.poll(_POLL_S)
            mine = consumer.assignment()
            placeless = [one for one in consumer.committed(mine, timeout=ANSWER_WITHIN_S) if one.offset < 0]
            if placeless:
                self._place(consumer, placeless, from_now_on)
        except KafkaException as exception:
            self._trouble = error_of(exception).str()
        return False

    def _on_assign(self, _consumer: Any, _partitions: Sequence[TopicPartition]) -> None:
        """What is not ours by then is with a member at work: it begins with the oldest, so that nothing is missed."""
        self._leave_at = self._clock.monotonic() + LEAVE_TO_OTHERS_AFTER_S

    def _place(self, consumer: Any, partitions: Sequence[TopicPartition], from_now_on: set[str]) -> None:
        offsets: list[TopicPartition] = []
        for one in partitions:
            low, high = consumer.get_watermark_offsets(one, timeout=ANSWER_WITHIN_S)
            start = high if one.topic in from_now_on else low
            if start > low and self._is_the_first(consumer, one, low):
                start = low
            if start > low:
                passed = "%s is new on %s [%s]: it begins at %s, and leaves the %s messages before it to others"
                logger.warning(passed, self._group, one.topic, one.partition, start, start - low)
            offsets.append(TopicPartition(one.topic, one.partition, start))
        consumer.commit(offsets=offsets, asynchronous=False)  # refused where another member has the partition by now

    def _is_the_first(self, consumer: Any, place: TopicPartition, low: int) -> bool:
        """Tell whether what the partition has may have waited for this group: all of it is young, and nobody else's."""
        since_ms = int((self._clock.now().timestamp() - YOUNG_S) * 1000)
        asked = TopicPartition(place.topic, place.partition, since_ms)
        (young,) = consumer.offsets_for_times([asked], timeout=ANSWER_WITHIN_S)
        return low == 0 == young.offset and not set(self._readers_of(place.topic)) - {self._group}

    def _places(self, consumer: Any, topic: str, size: int) -> list[bool]:
        """Tell of each partition whether the group has a place on it."""
        partitions = [TopicPartition(topic, number) for number in range(size)]
        return [one.offset >= 0 for one in consumer.committed(partitions, timeout=2 * ANSWER_WITHIN_S)]
