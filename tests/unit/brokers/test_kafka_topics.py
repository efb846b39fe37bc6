"""Which groups have a place on a topic."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from confluent_kafka import TopicPartition

from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.kafka import topics
from pillarbox.brokers.kafka.settings import settings_of
from pillarbox.brokers.kafka.topics import Topics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest


class Groups:
    """An admin client that tells of three groups, one of which has no name, as old clients could commit without one."""

    def list_consumer_groups(self, *, request_timeout: float) -> Future[Any]:
        told: Future[Any] = Future()
        told.set_result(SimpleNamespace(valid=[SimpleNamespace(group_id=name) for name in ("", "here", "elsewhere")]))
        return told


class Asking:
    """A client that asks as a group; librdkafka's ends the process for one without a name."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._group = options["group.id"]
        assert self._group, "the process would have ended"

    def committed(self, places: Sequence[TopicPartition], *, timeout: float) -> Sequence[TopicPartition]:
        return [TopicPartition(one.topic, one.partition, 7 if self._group == "here" else -1001) for one in places]

    def close(self) -> None:
        pass


def test_a_group_without_a_name_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "Consumer", Asking)
    monkeypatch.setattr(Topics, "client", staticmethod(Groups))

    found = Topics(settings_of("kafka://h:9092"), SystemClock()).consumers_of("_queue.payment", 2)

    assert found == ["here"]
