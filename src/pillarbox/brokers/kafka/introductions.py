"""Which partitions know the producer: what goes to the others goes one message of each key ahead. Book-keeping only.

While a request is on its way the client prepares the next one, and sends it although the first was refused. A server
sees the gap between their numbers, and refuses the second as well, but only where it has stored something of this
producer: on other partitions it takes any number to begin with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pillarbox.brokers.kafka.records import key_of

if TYPE_CHECKING:
    from pillarbox.message import Message

KNOWN_FOR_S: Final = 3600.0
"""Servers remember a producer for a day after its last message, unless ``producer.id.expiration.ms`` says less."""
KEYS_AT_MOST: Final = 10_000


@dataclass(slots=True)
class _Topic:
    """What is known of a topic: how many partitions it has, on which of them something of ours lies, and by what keys.

    Keys are kept only as long as not all partitions are known.
    """

    size: int
    since: float
    partitions: set[int] = field(default_factory=set[int])
    keys: set[str] = field(default_factory=set[str])

    @property
    def is_known(self) -> bool:
        return 0 < self.size <= len(self.partitions)


class Introductions:
    """The partitions that know one producer."""

    def __init__(self) -> None:
        """Begin with none."""
        self._topics: dict[str, _Topic] = {}

    def divide(
        self, messages: Sequence[Message], *, size_of: Callable[[str], int], now: float
    ) -> tuple[list[int], list[int]]:
        """Return the places of those messages that go ahead, and of those that wait until they are stored.

        Args:
            messages: a batch; a single message has nothing behind it.
            size_of: tells how many partitions the topic of a channel has, 0 where it cannot be told.
            now: seconds that only grow.
        """
        if len(messages) == 1:
            return [], [0]
        new = {
            channel: topic
            for channel in {message.destination for message in messages}
            if not (topic := self._topic(channel, size_of, now)).is_known
        }
        if not new:
            return [], list(range(len(messages)))
        ahead: list[int] = []
        behind: list[int] = []
        seen = set[tuple[str, str]]()
        for place, message in enumerate(messages):
            unknown, key = new.get(message.destination), key_of(message)
            in_order_with = (message.destination, key)
            if unknown is None or key in unknown.keys or in_order_with in seen:
                behind.append(place)
            else:
                seen.add(in_order_with)
                ahead.append(place)
        return ahead, behind

    def note(self, message: Message, partition: int) -> None:
        """A message that went ahead was stored in ``partition``."""
        topic = self._topics[message.destination]
        topic.partitions.add(partition)
        if topic.is_known or len(topic.keys) >= KEYS_AT_MOST:
            topic.keys.clear()
        topic.keys.add(key_of(message))

    def _topic(self, channel: str, size_of: Callable[[str], int], now: float) -> _Topic:
        topic = self._topics.get(channel)
        if topic is None or topic.size == 0 or now - topic.since > KNOWN_FOR_S:
            topic = self._topics[channel] = _Topic(size_of(channel), now)
        return topic
