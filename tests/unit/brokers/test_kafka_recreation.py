"""Topics that somebody made again, by what the server answers about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from pillarbox.brokers.kafka.recreation import ASK_EVERY_S, RecreationWatch
from pillarbox.testing.virtual_clock import VirtualClock

if TYPE_CHECKING:
    from pillarbox.brokers.kafka.topics import Topics


@dataclass
class Description:
    topic_id: str
    partitions: Sequence[int]


class Server:
    """Answers with the identity that it was given last; while it is silent, later."""

    def __init__(self) -> None:
        self.identity: str | KafkaException = "first"
        self.partitions = 4
        self.is_silent = False
        self.asked: list[Future[Any]] = []

    def client(self) -> object:
        return object()

    def describe(self, _client: object, names: Sequence[str]) -> Mapping[str, Future[Any]]:
        (name,) = names
        answer = Future[Any]()
        self.asked.append(answer)
        if not self.is_silent:
            self.answer()
        return {name: answer}

    def answer(self) -> None:
        if isinstance(self.identity, KafkaException):
            self.asked[-1].set_exception(self.identity)
        else:
            self.asked[-1].set_result(Description(self.identity, range(self.partitions)))


def watch_on(server: Server, clock: VirtualClock) -> RecreationWatch:
    return RecreationWatch(["order"], topics=cast("Topics", server), clock=clock)


def told(watch: RecreationWatch, clock: VirtualClock) -> list[str]:
    """Have the server asked, and its answer looked at."""
    clock.advance(timedelta(seconds=ASK_EVERY_S))
    return [*watch.recreated(), *watch.recreated()]


def test_a_topic_that_is_another_is_told_of_once() -> None:
    server, clock = Server(), VirtualClock()
    watch = watch_on(server, clock)
    assert told(watch, clock) == []
    server.identity = "second"

    assert [told(watch, clock), told(watch, clock)] == [["order"], []]


def test_a_topic_that_is_gone_for_a_while_is_told_of_when_it_is_there_again_as_another() -> None:
    server, clock = Server(), VirtualClock()
    watch = watch_on(server, clock)
    told(watch, clock)
    server.identity = KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    assert told(watch, clock) == []
    server.identity = "second"

    assert told(watch, clock) == ["order"]


def test_a_silent_server_is_not_waited_for_and_not_asked_twice() -> None:
    server, clock = Server(), VirtualClock()
    server.is_silent = True
    watch = watch_on(server, clock)

    assert [told(watch, clock), told(watch, clock)] == [[], []]
    assert len(server.asked) == 1


def test_the_server_is_asked_now_and_then_only() -> None:
    server, clock = Server(), VirtualClock()
    watch = watch_on(server, clock)

    for _ in range(100):
        watch.recreated()

    assert len(server.asked) == 1


def test_a_topic_that_has_got_more_partitions_is_told_of_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    server, clock = Server(), VirtualClock()
    watch = watch_on(server, clock)
    told(watch, clock)
    server.partitions = 6

    assert [told(watch, clock), told(watch, clock)] == [[], []]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the topic order has 6 partitions, and had 4"
    ]


def test_a_topic_that_somebody_made_again_with_more_partitions_has_no_keys_that_moved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, clock = Server(), VirtualClock()
    watch = watch_on(server, clock)
    told(watch, clock)
    server.identity, server.partitions = "second", 6

    assert told(watch, clock) == ["order"]
    assert not caplog.records
