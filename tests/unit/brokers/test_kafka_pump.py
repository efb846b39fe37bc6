"""A partition whose place is not in the log any more, by what the client says of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.kafka import pump as module
from pillarbox.brokers.kafka.fill import READY_AT_MOST
from pillarbox.brokers.kafka.pump import BEGINNING, Pump
from pillarbox.brokers.kafka.settings import KafkaSettings
from pillarbox.brokers.kafka.share import receipt_of
from pillarbox.channel import OUT_OF_A_PLACE, Delivery
from tests.waiting import wait_blocking

OUT_OF_RANGE = KafkaError(KafkaError._AUTO_OFFSET_RESET, "out of range")  # pyright: ignore[reportPrivateUsage]


@dataclass
class Record:
    """What the client gives: a record at an offset, or the news that there is none."""

    at: int = -1
    fault: KafkaError | None = None

    def error(self) -> KafkaError | None:
        return self.fault

    def topic(self) -> str:
        return "order"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def headers(self) -> None:
        return None

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"{}"


class OnePartition:
    """A consumer of one partition, to which all comes as it was told before."""

    def __init__(self, *rounds: Sequence[Record], from_the_beginning: Sequence[Record]) -> None:
        self.committed: list[int] = []
        self.begins = 0
        self.has_told_all = threading.Event()
        self._rounds = deque(rounds)
        self._from_the_beginning = from_the_beginning
        self._rest: Sequence[Record] = ()
        self._tell: Callable[..., None] | None = None
        self._assign: Callable[..., None] | None = None
        self._pause = threading.Event()

    def made_with(self, options: dict[str, Any]) -> OnePartition:
        self._tell = options["on_commit"]
        return self

    def subscribe(self, _topics: list[str], *, on_assign: Callable[..., None], **_others: object) -> None:
        self._assign = on_assign

    def poll(self, within_s: float) -> Record | None:
        if self._assign is not None:
            assign, self._assign = self._assign, None
            assign(self, [TopicPartition("order", 0)])
        if not self._rounds:
            self.has_told_all.set()
            self._pause.wait(within_s / 20)
            return None
        first, *self._rest = self._rounds.popleft()
        return first

    def consume(self, _limit: int, _within_s: float) -> Sequence[Record]:
        return self._rest

    def incremental_assign(self, partitions: Sequence[TopicPartition]) -> None:
        if [one.offset for one in partitions] == [BEGINNING]:
            self.begins += 1
            self._rounds.append(self._from_the_beginning)

    def resume(self, _partitions: Sequence[TopicPartition]) -> None:
        pass

    def incremental_unassign(self, _partitions: Sequence[TopicPartition]) -> None:
        pass

    def commit(self, *, offsets: Sequence[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        assert self._tell is not None
        self.committed += [one.offset for one in offsets]
        self._tell(None, offsets)

    def close(self) -> None:
        pass


@contextmanager
def pumped(
    consumer: OnePartition, monkeypatch: pytest.MonkeyPatch, *, recreated: Callable[[], Sequence[str]] = lambda: ()
) -> Iterator[Pump]:
    monkeypatch.setattr(module, "Consumer", consumer.made_with)
    pump = Pump(
        "shop/c",
        {"order": "topic:order"},
        settings=KafkaSettings(servers="nowhere"),
        clock=SystemClock(),
        news=lambda: None,
        foreign={},
        recreated=recreated,
    )
    pump.start()
    assert consumer.has_told_all.wait(5.0)
    try:
        yield pump
    finally:
        pump.stop()
        assert pump.join(5.0)


def handed_out(pump: Pump, number: int) -> list[Delivery]:
    """Wait for that many."""
    deliveries: list[Delivery] = []

    def are_there() -> bool:
        deliveries.extend(pump.hand_out(number - len(deliveries)))
        return len(deliveries) == number

    wait_blocking(are_there)
    return deliveries


def offsets_of(deliveries: Sequence[Delivery]) -> list[int]:
    return [receipt_of(one).offset for one in deliveries]


@pytest.mark.parametrize("at_once", [True, False], ids=["with the news", "before the news"])
@pytest.mark.parametrize("oldest", [100, 0], ids=["what follows was removed", "the log went back"])
def test_a_place_that_is_gone_takes_nothing_along_that_was_read_and_passes_nothing_by(
    monkeypatch: pytest.MonkeyPatch, at_once: bool, oldest: int
) -> None:
    read, gone = [Record(5), Record(6)], [Record(fault=OUT_OF_RANGE)]
    rounds = [[*read, *gone]] if at_once else [read, gone]
    consumer = OnePartition(*rounds, from_the_beginning=[Record(oldest)])

    with pumped(consumer, monkeypatch) as pump:
        before = handed_out(pump, 2)
        pump.accept(before)
        after = handed_out(pump, 1)
        pump.accept(after)
        wait_blocking(lambda: consumer.committed[-1:] == [oldest + 1])

    assert offsets_of([*before, *after]) == [5, 6, oldest]
    assert consumer.begins == 1


def test_the_group_is_told_to_begin_anew_while_something_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = OnePartition([Record(5), Record(6), Record(fault=OUT_OF_RANGE)], from_the_beginning=[])

    with pumped(consumer, monkeypatch) as pump:
        pump.accept(handed_out(pump, 2)[1:])

    assert consumer.committed == [0]
    assert consumer.begins == 0


def test_what_is_out_when_a_place_is_gone_may_be_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    news = Record(fault=OUT_OF_RANGE)
    consumer = OnePartition([Record(5), Record(6), news, news], from_the_beginning=[Record(0)])

    with pumped(consumer, monkeypatch) as pump:
        out = handed_out(pump, 2)
        pump.accept(out[1:])
        pump.give_back(out[:1])
        again = handed_out(pump, 1)
        pump.accept(again)
        after = handed_out(pump, 1)

    assert offsets_of([*again, *after]) == [5, 0]
    assert consumer.begins == 1


def test_of_a_topic_that_somebody_made_again_nothing_is_read_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = OnePartition([Record(5), Record(6)], [Record(7)], from_the_beginning=[Record(0), Record(1)])
    news = deque[Sequence[str]]([["order"]])

    with pumped(consumer, monkeypatch, recreated=lambda: news.popleft() if news else ()) as pump:
        before = handed_out(pump, 2)
        pump.accept(before)
        after = handed_out(pump, 2)
        pump.accept(after)
        wait_blocking(lambda: consumer.committed[-1:] == [2])

    assert offsets_of([*before, *after]) == [5, 6, 0, 1]
    assert consumer.begins == 1


def test_the_group_is_told_of_a_topic_that_somebody_made_again_before_anything_of_it_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consumer = OnePartition([Record(5)], from_the_beginning=[])
    news = deque[Sequence[str]]()

    with pumped(consumer, monkeypatch, recreated=lambda: news.popleft() if news else ()) as pump:
        pump.accept(handed_out(pump, 1))
        wait_blocking(lambda: consumer.committed[-1:] == [6])
        news.append(["order"])
        wait_blocking(lambda: consumer.committed[-1:] == [0])

    assert consumer.begins == 1


@dataclass
class RecordOf(Record):
    """A record of one of several partitions."""

    number: int = 0

    def partition(self) -> int:
        return self.number


class TwoPartitions(OnePartition):
    """A consumer of two partitions without end, of which the first has far more; it gives none that is paused."""

    def __init__(self) -> None:
        super().__init__(from_the_beginning=())
        self.has_told_all.set()
        self.paused = set[int]()
        self._next = [0, 0]

    def poll(self, within_s: float) -> Record | None:
        if self._assign is not None:
            assign, self._assign = self._assign, None
            assign(self, self.assignment())
        for number in (0, 1):
            if number not in self.paused:
                count = 250 if number == 0 else 5
                first, *self._rest = [RecordOf(self._next[number] + one, number=number) for one in range(count)]
                self._next[number] += count
                return first
        self._pause.wait(within_s / 20)
        return None

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition("order", 0), TopicPartition("order", 1)]

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self.paused |= {one.partition for one in partitions}

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self.paused -= {one.partition for one in partitions}


def test_a_partition_of_which_enough_is_out_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow key: its partition stays full for as long as nothing of it is settled."""
    monkeypatch.setattr("pillarbox.brokers.kafka.fill.PAUSE_AFTER_S", 0.05)
    consumer = TwoPartitions()

    with pumped(consumer, monkeypatch) as pump:
        slow = handed_out(pump, OUT_OF_A_PLACE)
        assert {receipt_of(one).partition for one in slow} == {0}
        others = handed_out(pump, 5)

        assert {receipt_of(one).partition for one in others} == {1}
        assert 0 in consumer.paused
        assert len(slow) <= READY_AT_MOST

        seen = [receipt_of(one).offset for one in slow]
        while len(seen) < 2 * READY_AT_MOST:  # it is read on when its messages are settled, and none is passed by
            pump.accept([*slow, *others])
            slow, others = [], handed_out(pump, 1)
            seen += [receipt_of(one).offset for one in others if receipt_of(one).partition == 0]
        assert seen == list(range(len(seen)))
