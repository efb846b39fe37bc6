"""The doctor of Kafka: what its settings make of a confirm, and of a consumer that stands still.

The rows of RELIABILITY behind the codes: ``replication-factor``, ``min-insync-replicas`` and ``unclean-election`` K1,
``partition-count`` K9, ``offsets-retention`` K14, ``compaction`` and ``retention`` K15.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaException, TopicCollection

from pillarbox.brokers.kafka.topics import ANSWER_WITHIN_S, admin_of_client, wait_for
from pillarbox.brokers.kafka.translation import translated
from pillarbox.control.diagnosis import Finding, Severity, problem, well

if TYPE_CHECKING:
    from pillarbox.brokers.kafka.settings import KafkaSettings
    from pillarbox.brokers.kafka.topics import Topics

SHORT: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """A topic; ``settings`` are ``None`` where we may not see them."""

    name: str
    partitions: int
    replicas: int
    settings: Mapping[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaFacts:
    """Everything that the doctor judges.

    Attributes:
        brokers: how many there are.
        topics: ours, of those that are there.
        absent: ours that are not there, or that we may not see.
        settings: of one broker; ``None`` where we may not see them.
    """

    brokers: int
    topics: tuple[TopicFacts, ...]
    settings: Mapping[str, str] | None
    absent: tuple[str, ...] = ()


def look(topics: Topics, ours: Collection[str]) -> KafkaFacts:
    """Ask the servers about the topics ``ours``, and no others: what those are for nobody here knows. Blocks.

    Raises:
        BrokerUnavailableError: none answers.
    """
    with translated():
        client = topics.client()
        cluster = client.list_topics(timeout=2 * ANSWER_WITHIN_S)
        names = sorted(name for name in ours if name in cluster.topics)
        described: Any = client.describe_topics(TopicCollection(names)) if names else {}
        settings = {name: _settings(client, "TOPIC", name) for name in names}
        found: list[TopicFacts] = []
        for name, answer in described.items():
            partitions: Any = wait_for(answer).partitions
            least = min(len(one.replicas) for one in partitions)
            found.append(TopicFacts(name=name, partitions=len(partitions), replicas=least, settings=settings[name]))
        broker = str(next(iter(cluster.brokers)))
        of_broker = _settings(client, "BROKER", broker)
        absent = tuple(sorted(set(ours) - set(names)))
        return KafkaFacts(brokers=len(cluster.brokers), topics=tuple(found), settings=of_broker, absent=absent)


def judge_kafka(facts: KafkaFacts, settings: KafkaSettings) -> list[Finding]:
    """Return every finding, good and bad."""
    findings = [*_server(facts), *_absent(facts)]
    for topic in facts.topics:
        findings += _copies(topic, facts.brokers)
        findings += _shape(topic, settings)
        if topic.settings is None:
            findings.append(_hidden(f"topic {topic.name}"))
            continue
        findings += [*_elections(topic, topic.settings), *_keeping(topic, topic.settings)]
        findings += _sizes(topic, topic.settings, settings)
    return findings


def _server(facts: KafkaFacts) -> Iterator[Finding]:
    if facts.settings is None:
        yield _hidden("the broker")
        return
    minutes = int(facts.settings.get("offsets.retention.minutes", "10080"))
    kept = timedelta(minutes=minutes)
    means = f"a consumer of which no instance runs for {_days(kept)} loses its place, and begins as a new one does"
    do = "raise offsets.retention.minutes beyond the longest stop of a service, or write begin=earliest into broker="
    severity = Severity.WARNING if kept < timedelta(days=7) else Severity.NOTICE
    yield problem("offsets-retention", severity, "offsets.retention.minutes", str(minutes), means=means, do=do)


def _absent(facts: KafkaFacts) -> Iterator[Finding]:
    means = (
        "what is sent to it waits in the outbox until a consumer declares it; a queue is made when something is sent"
    )
    do = "start a service that consumes it, or let the user of this one describe it"
    for name in facts.absent:
        yield problem("topic-absent", Severity.NOTICE, f"topic {name}", "it is not there", means=means, do=do)
    if not facts.topics and not facts.absent:
        means = "whether what is published survives the loss of a broker cannot be told"
        do = "name the program's box: --app module:box; register what it only publishes: box.register(…)"
        yield problem("topic-absent", Severity.NOTICE, "topics", "none of ours is known", means=means, do=do)


def _copies(topic: TopicFacts, brokers: int) -> Iterator[Finding]:
    subject = f"topic {topic.name}"
    least = int((topic.settings or {}).get("min.insync.replicas", "1"))
    if topic.replicas == 1:
        means = "the loss of one broker's disk is the loss of what was confirmed"
        severity = Severity.NOTICE if brokers == 1 else Severity.WARNING
        do = "run three brokers, make topics with replication=3 and min.insync.replicas=2"
        yield problem("replication-factor", severity, subject, "1 copy", means=means, do=do)
        return
    yield well("replication-factor", subject, f"{topic.replicas} copies")
    if topic.settings is None:
        return
    if least == 1:
        means = "a confirm may stand for one copy, when the others lag; if that broker is lost, so is the message"
        yield problem(
            "min-insync-replicas", Severity.WARNING, subject, "1", means=means, do="set min.insync.replicas=2"
        )
    elif least >= topic.replicas:
        means = "while any one broker is away nothing is taken; the outbox keeps it"
        do = "have one copy more than min.insync.replicas"
        yield problem("min-insync-replicas", Severity.NOTICE, subject, str(least), means=means, do=do)
    else:
        yield well("min-insync-replicas", subject, str(least))


def _elections(topic: TopicFacts, settings: Mapping[str, str]) -> Iterator[Finding]:
    subject = f"topic {topic.name}"
    if settings.get("unclean.leader.election.enable", "false") == "true":
        means = "a replica that lacks confirmed messages may take over; they are gone then"
        do = "set unclean.leader.election.enable=false"
        yield problem("unclean-election", Severity.ERROR, subject, "allowed", means=means, do=do)
    else:
        yield well("unclean-election", subject, "not allowed")


def _keeping(topic: TopicFacts, settings: Mapping[str, str]) -> Iterator[Finding]:
    subject = f"topic {topic.name}"
    if "compact" in settings.get("cleanup.policy", "delete"):
        means = "of each key only the last message is kept: what a consumer has not read by then is lost to it"
        yield problem("compaction", Severity.ERROR, subject, "compact", means=means, do="set cleanup.policy=delete")
    else:
        yield well("compaction", subject, "delete")
    kept_ms, kept_bytes = int(settings.get("retention.ms", "-1")), int(settings.get("retention.bytes", "-1"))
    means = (
        "what a consumer has not read by then is removed; it goes on with the oldest that is there, and logs an error"
    )
    if kept_bytes != -1:
        do = "set retention.bytes=-1 and keep messages for a time"
        yield problem("retention", Severity.WARNING, subject, f"{kept_bytes} bytes", means=means, do=do)
    elif kept_ms != -1 and timedelta(milliseconds=kept_ms) < SHORT:
        do = "set retention.ms beyond the longest time for which a consumer may stand still"
        yield problem("retention", Severity.WARNING, subject, f"{kept_ms} ms", means=means, do=do)
    else:
        what = "for ever" if kept_ms == -1 else _days(timedelta(milliseconds=kept_ms))
        yield well("retention", subject, what)


def _shape(topic: TopicFacts, settings: KafkaSettings) -> Iterator[Finding]:
    subject = f"topic {topic.name}"
    if topic.partitions == settings.partitions:
        yield well("partition-count", subject, str(topic.partitions))
        return
    means = "at most as many instances work as there are partitions; when the number is raised keys move, out of order"
    do = f"write partitions={topic.partitions} into broker=, or change the number while the topic is empty"
    what = f"{topic.partitions}, declared are {settings.partitions}"
    yield problem("partition-count", Severity.WARNING, subject, what, means=means, do=do)


def _sizes(topic: TopicFacts, settings: Mapping[str, str], ours: KafkaSettings) -> Iterator[Finding]:
    subject = f"topic {topic.name}"
    limit = int(settings.get("max.message.bytes", "1048588"))
    if limit >= ours.max_record_bytes:
        yield well("record-size", subject, f"{limit} bytes")
        return
    means = "larger messages are refused, and parked with that reason"
    do = f"set max.message.bytes={ours.max_record_bytes}, or lower Limits(max_body_bytes=…) of the box"
    yield problem("record-size", Severity.WARNING, subject, f"{limit} bytes", means=means, do=do)


def _hidden(subject: str) -> Finding:
    means = "whether what was confirmed survives the loss of a broker, and how long it is kept, cannot be told"
    do = "let the user of the service describe configurations (DescribeConfigs), or look where Kafka is managed"
    return problem("kafka-rights", Severity.NOTICE, subject, "its settings may not be seen", means=means, do=do)


def _settings(client: Any, kind: str, name: str) -> Mapping[str, str] | None:
    resource = admin_of_client.ConfigResource(admin_of_client.ResourceType[kind], name)
    try:
        entries = wait_for(client.describe_configs([resource], request_timeout=ANSWER_WITHIN_S)[resource])
    except KafkaException:
        return None
    return {name: entry.value for name, entry in entries.items() if entry.value is not None}


def _days(duration: timedelta) -> str:
    hours = duration.total_seconds() / 3600
    return f"{hours / 24:g} days" if hours >= 24 else f"{hours:g} hours"
