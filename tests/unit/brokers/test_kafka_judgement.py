"""What the doctor says about facts of a Kafka."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pillarbox.brokers.kafka.diagnosis import KafkaFacts, TopicFacts, judge_kafka
from pillarbox.brokers.kafka.settings import KafkaSettings
from pillarbox.control.diagnosis import Severity

SETTINGS = {
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
    "cleanup.policy": "delete",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "max.message.bytes": "1048588",
}
TOPIC = TopicFacts(name="order", partitions=16, replicas=3, settings=SETTINGS)
SOUND = KafkaFacts(brokers=3, topics=(TOPIC,), settings={"offsets.retention.minutes": "10080"})
OURS = KafkaSettings(servers="a:1")


def amiss(facts: KafkaFacts) -> list[tuple[str, Severity]]:
    findings = [one for one in judge_kafka(facts, OURS) if one.severity is not Severity.OK]
    assert all(one.means and one.do for one in findings)
    return [(one.code, one.severity) for one in findings]


def test_a_sound_cluster_has_only_its_memory_of_places_to_know_of() -> None:
    assert amiss(SOUND) == [("offsets-retention", Severity.NOTICE)]


@pytest.mark.parametrize(
    ("settings", "code", "severity"),
    [
        ({"min.insync.replicas": "1"}, "min-insync-replicas", Severity.WARNING),
        ({"min.insync.replicas": "3"}, "min-insync-replicas", Severity.NOTICE),
        ({"unclean.leader.election.enable": "true"}, "unclean-election", Severity.ERROR),
        ({"cleanup.policy": "compact,delete"}, "compaction", Severity.ERROR),
        ({"retention.ms": "3600000"}, "retention", Severity.WARNING),
        ({"retention.bytes": "1000000"}, "retention", Severity.WARNING),
        ({"max.message.bytes": "100000"}, "record-size", Severity.WARNING),
    ],
)
def test_settings_of_a_topic_that_endanger_messages_are_found(
    settings: dict[str, str], code: str, severity: Severity
) -> None:
    facts = replace(SOUND, topics=(replace(TOPIC, settings={**SETTINGS, **settings}),))

    assert amiss(facts)[1:] == [(code, severity)]


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (replace(SOUND, topics=(replace(TOPIC, replicas=1),)), ("replication-factor", Severity.WARNING)),
        (replace(SOUND, brokers=1, topics=(replace(TOPIC, replicas=1),)), ("replication-factor", Severity.NOTICE)),
        (replace(SOUND, topics=(replace(TOPIC, partitions=4),)), ("partition-count", Severity.WARNING)),
        (replace(SOUND, topics=(replace(TOPIC, settings=None),)), ("kafka-rights", Severity.NOTICE)),
        (replace(SOUND, absent=("parcel",)), ("topic-absent", Severity.NOTICE)),
        (replace(SOUND, topics=()), ("topic-absent", Severity.NOTICE)),
    ],
)
def test_shapes_that_endanger_messages_are_found(facts: KafkaFacts, found: tuple[str, Severity]) -> None:
    assert amiss(facts)[1:] == [found]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (None, ("kafka-rights", Severity.NOTICE)),
        ({"offsets.retention.minutes": "60"}, ("offsets-retention", Severity.WARNING)),
    ],
)
def test_a_server_that_forgets_soon_is_found(settings: dict[str, str] | None, found: tuple[str, Severity]) -> None:
    assert amiss(replace(SOUND, settings=settings)) == [found]
