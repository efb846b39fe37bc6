"""What the doctor says about facts of a NATS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from pillarbox.brokers.nats.api import Consumer
from pillarbox.brokers.nats.consumers import CONSUMER, STREAM
from pillarbox.brokers.nats.diagnosis import NatsFacts, StreamFacts, judge_nats
from pillarbox.control.diagnosis import Severity

SOUND = {**STREAM, "name": "topic:order", "subjects": ["topic.order.*"], "num_replicas": 3}


def facts(
    *, is_cluster: bool = True, name: str = "shop~c-0", consumer: dict[str, Any] | None = None, **config: Any
) -> NatsFacts:
    of = Consumer(
        name=name, config=consumer or CONSUMER, created="", delivered=0, delivered_up_to=0, floor=0, pending=0
    )
    stream = StreamFacts(config={**SOUND, **config}, consumers=[of])
    return NatsFacts(streams=[stream], is_cluster=is_cluster)


def test_of_a_sound_stream_only_the_sync_is_worth_a_word() -> None:
    findings = judge_nats(facts())

    assert [one.code for one in findings if one.severity is not Severity.OK] == ["nats-sync"]
    assert {one.code for one in findings} == {"nats-storage", "nats-replicas", "nats-retention", "nats-sync"}


@pytest.mark.parametrize(
    ("config", "code", "severity"),
    [
        ({"storage": "memory"}, "nats-storage", Severity.ERROR),
        ({"persist_mode": "async"}, "nats-storage", Severity.WARNING),
        ({"no_ack": True}, "nats-confirm", Severity.ERROR),
        ({"num_replicas": 1}, "nats-replicas", Severity.WARNING),
        ({"retention": "interest"}, "nats-retention", Severity.WARNING),
        ({"max_age": 1}, "nats-retention", Severity.WARNING),
        ({"max_bytes": 1, "discard": "old"}, "nats-retention", Severity.WARNING),
        ({"max_bytes": 1}, "nats-retention", Severity.NOTICE),
    ],
)
def test_settings_that_endanger_messages_are_found(config: dict[str, Any], code: str, severity: Severity) -> None:
    found = [one for one in judge_nats(facts(**config)) if one.code == code]

    assert [one.severity for one in found] == [severity]
    assert all(one.means and one.do for one in found)


@pytest.mark.parametrize(
    "changed",
    [
        {"max_deliver": 5},
        {"ack_policy": "none"},
        {"headers_only": True},
        {"max_batch": 10},
        {"max_expires": 1},
        {"inactive_threshold": 1},
        {"filter_subject": "topic.order.1"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_consumer_that_gives_up_is_found(changed: dict[str, Any]) -> None:
    found = [one for one in judge_nats(facts(consumer={**CONSUMER, **changed})) if one.code == "nats-consumer"]

    assert [one.severity for one in found] == [Severity.ERROR]


def test_a_consumer_that_is_paused_is_found() -> None:
    (stream,) = facts().streams
    paused = replace(stream, consumers=[msgspec.structs.replace(stream.consumers[0], is_paused=True)])

    found = [one for one in judge_nats(NatsFacts(streams=[paused], is_cluster=True)) if one.code == "nats-consumer"]

    assert [(one.severity, one.do) for one in found] == [
        (Severity.WARNING, "nats consumer resume topic:order shop~c-0")
    ]


@pytest.mark.parametrize("name", ["viewer", "b3Yt~x", "archive-3", "shop~c-16"])
def test_a_consumer_of_somebody_else_is_theirs(name: str) -> None:
    found = judge_nats(facts(name=name, consumer={"ack_policy": "none", "inactive_threshold": 5}))

    assert [one for one in found if one.code == "nats-consumer"] == []


def test_a_single_server_has_no_other_to_copy_to() -> None:
    findings = judge_nats(facts(is_cluster=False, num_replicas=1))

    assert [one.severity for one in findings if one.code == "nats-replicas"] == [Severity.OK]
