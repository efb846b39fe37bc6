"""Where a group begins on a topic, by what else is known of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from confluent_kafka import TopicPartition

from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.kafka.founding import Founder
from pillarbox.brokers.kafka.settings import settings_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

TOPIC, PARTITIONS, WAITING = "order", 3, 7


class YoungTopic:
    """Has messages in each partition, all of them young."""

    def __init__(self) -> None:
        self.places: list[int] = []

    def get_watermark_offsets(self, _place: TopicPartition, **_: Any) -> tuple[int, int]:
        return 0, WAITING

    def offsets_for_times(self, places: Sequence[TopicPartition], **_: Any) -> list[TopicPartition]:
        return [TopicPartition(one.topic, one.partition, 0) for one in places]

    def commit(self, *, offsets: Sequence[TopicPartition], **_: Any) -> None:
        self.places = [one.offset for one in offsets]


def test_all_partitions_of_a_topic_begin_alike_though_another_group_founds_its_places_meanwhile() -> None:
    asked: list[str] = []

    def readers_of(topic: str) -> Collection[str]:
        asked.append(topic)
        return ["bank/post"][: len(asked) - 1]

    topic = YoungTopic()
    founder = Founder(
        "shop/post", settings=settings_of("kafka://localhost"), clock=SystemClock(), readers_of=readers_of
    )

    founder._place(topic, [TopicPartition(TOPIC, number) for number in range(PARTITIONS)], {TOPIC})

    assert topic.places == [0] * PARTITIONS
    assert asked == [TOPIC]
