"""What the doctor says about facts of a RabbitMQ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pillarbox.brokers.rabbitmq.diagnosis import QueueFacts, RabbitMqFacts, alternates_of, judge_rabbitmq, queue_facts
from pillarbox.brokers.rabbitmq.layout import arguments, dead_of, kept_of
from pillarbox.control.diagnosis import Severity

PLACE = "topic:a/shop/c"
PARTITION = {"name": f"{PLACE}/0", "type": "quorum", "arguments": arguments("topic:a", dead_of(PLACE))}
DEAD = {"name": dead_of(PLACE), "type": "quorum", "arguments": arguments("topic:a", kept_of(PLACE))}
STRANGE = {"name": f"{PLACE}/0", "type": "quorum", "arguments": {"x-dead-letter-exchange": "theirs"}}
QUEUE = queue_facts({**PARTITION, "members": "abc", "online": "abc"})
SOUND = RabbitMqFacts(version="4.1.0", blocked=None, untold=None, nodes=["a", "b", "c"], queues=[QUEUE])


def with_policy(told: dict[str, Any] = PARTITION, /, **policy: Any) -> QueueFacts:
    """Facts of a queue under a policy, whose names have lines where Python has underscores."""
    definition = {name.replace("_", "-"): value for name, value in policy.items()}
    return queue_facts({**told, "effective_policy_definition": definition})


def test_a_sound_server_has_nothing_amiss() -> None:
    assert {one.severity for one in judge_rabbitmq(SOUND)} == {Severity.OK}


@pytest.mark.parametrize(
    ("facts", "code", "severity"),
    [
        (replace(SOUND, blocked="low on memory"), "alarm", Severity.ERROR),
        (replace(SOUND, alarms=["a: disk"]), "alarm", Severity.ERROR),
        (replace(SOUND, untold="no management"), "management", Severity.NOTICE),
        (replace(SOUND, nodes=["a"]), "copies", Severity.NOTICE),
        (replace(SOUND, queues=[replace(QUEUE, online=2)]), "copies", Severity.WARNING),
        (replace(SOUND, queues=[replace(QUEUE, kind="classic")]), "queue-type", Severity.ERROR),
        (replace(SOUND, queues=[with_policy(delivery_limit=20)]), "delivery-limit", Severity.WARNING),
        (replace(SOUND, queues=[with_policy(message_ttl=60_000)]), "message-ttl", Severity.WARNING),
        (replace(SOUND, queues=[with_policy(DEAD, delivery_limit=20)]), "delivery-limit", Severity.ERROR),
        (replace(SOUND, queues=[with_policy(DEAD, message_ttl=60_000)]), "message-ttl", Severity.ERROR),
        (replace(SOUND, queues=[with_policy(STRANGE, message_ttl=60_000)]), "message-ttl", Severity.ERROR),
        (replace(SOUND, queues=[with_policy(expires=60_000)]), "message-ttl", Severity.ERROR),
        (replace(SOUND, queues=[replace(QUEUE, settings={"max-length": 5})]), "queue-length", Severity.ERROR),
        (replace(SOUND, alternates={"topic:a": "theirs"}), "alternate-exchange", Severity.ERROR),
        (replace(SOUND, queues=[with_policy(consumer_timeout=60_000)]), "consumer-timeout", Severity.NOTICE),
    ],
)
def test_what_endangers_messages_is_found(facts: RabbitMqFacts, code: str, severity: Severity) -> None:
    (finding,) = [one for one in judge_rabbitmq(facts) if one.severity is not Severity.OK]

    assert (finding.code, finding.severity) == (code, severity)
    assert finding.means
    assert finding.do


@pytest.mark.parametrize(
    "queue",
    [
        with_policy(max_length=5),
        with_policy(max_length=5, overflow="drop-head"),
        with_policy(dead_letter_exchange="dead"),
        with_policy(delivery_limit=100_000),
        with_policy(consumer_timeout=3_600_000),
    ],
    ids=[
        "rejects",
        "rejects whatever a policy says",
        "moves nothing without a limit",
        "a limit that is not reached",
        "more patience than the server's own",
    ],
)
def test_limits_that_cost_nothing_are_well(queue: QueueFacts) -> None:
    assert {one.severity for one in judge_rabbitmq(replace(SOUND, queues=[queue]))} == {Severity.OK}


@pytest.mark.parametrize("limit", [{"delivery_limit": 20}, {"message_ttl": 60_000}], ids=["deliveries", "age"])
def test_whatever_exchange_a_policy_names_messages_become_dead_letters_of_their_consumer(limit: dict[str, Any]) -> None:
    queue = with_policy(**limit, dead_letter_exchange="theirs")

    (finding,) = [one for one in judge_rabbitmq(replace(SOUND, queues=[queue])) if one.severity is not Severity.OK]

    assert finding.severity is Severity.WARNING
    assert "dead letter of its consumer" in finding.means


def test_what_is_removed_from_a_dead_queue_is_said_to_stay_in_the_server() -> None:
    queue = with_policy(DEAD, message_ttl=60_000)

    (finding,) = [one for one in judge_rabbitmq(replace(SOUND, queues=[queue])) if one.severity is not Severity.OK]

    assert f"bound under {kept_of(PLACE)}" in finding.means


def test_no_advice_is_to_let_the_server_move_messages() -> None:
    (finding,) = [
        one
        for one in judge_rabbitmq(replace(SOUND, queues=[with_policy(delivery_limit=20)]))
        if one.severity is not Severity.OK
    ]

    assert "dead-letter-exchange" not in finding.do


def test_alternate_exchanges_of_ours_are_found_by_argument_and_by_policy() -> None:
    own = {"alternate-exchange": "own"}
    exchanges = [
        {"name": "topic:a", "arguments": {}, "policy": "lossy"},
        {"name": "topic:b", "arguments": own, "policy": "lossy"},
        {"name": "topic:c", "arguments": {}, "policy": "unseen"},
        {"name": "topic:d", "arguments": {}},
        {"name": "theirs", "arguments": own},
    ]
    policies = [{"name": "lossy", "definition": {"alternate-exchange": "other"}}]

    assert alternates_of(exchanges, policies) == {"topic:a": "other", "topic:b": "own"}
