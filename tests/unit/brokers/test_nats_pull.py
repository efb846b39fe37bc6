"""What a pulled partition makes of what comes from its consumer, and of a consumer that is another one by now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from msgspec import structs

from pillarbox.brokers.nats.api import Consumer, JetStream, Stored
from pillarbox.brokers.nats.pull import Arrival, Pull
from pillarbox.brokers.partitions import hand_out, receipt_of

if TYPE_CHECKING:
    from pillarbox.brokers.nats.connection import NatsConnection

FIRST, SECOND = "2031-05-17T08:00:00.000000001Z", "2031-05-17T08:00:00.000000002Z"
BEFORE, AFTER = 1_000, 2_000
"""When messages were stored: before the stream was made again, and after."""


def consumer(created: str = FIRST, *, delivered: int = 0) -> Consumer:
    return Consumer(
        name="c-0", config={}, created=created, delivered=delivered, delivered_up_to=delivered, floor=0, pending=0
    )


def pull(created: str = FIRST, *, delivered: int = 0) -> Pull:
    """Return a partition that follows a consumer."""
    made = Pull("topic.order.0", "topic:order", 0, stream="topic:order", durable="c-0")
    made.attach(consumer(created, delivered=delivered))
    made.token = 1
    return made


def came(sequence: int, delivery: int, *, stored_at: int = BEFORE) -> Any:
    reply = f"$JS.ACK.topic:order.c-0.1.{sequence}.{delivery}.{stored_at}.0"
    return SimpleNamespace(reply=reply, headers=None, data=b"%d at %d" % (sequence, stored_at))


def bodies(share: Pull) -> list[bytes]:
    """Hand out all that is ready."""
    return [one.message.body for one in hand_out([share], 100)]


def stored(sequence: int) -> Stored:
    return Stored(sequence=sequence, time_ns=BEFORE, headers=b"", body=b"%d" % sequence)


def test_deliveries_that_follow_each_other_are_taken() -> None:
    share = pull(delivered=4)

    assert [share.take(came(11, 5)), share.take(came(14, 6))] == [Arrival.TAKEN] * 2
    assert [receipt_of(one).order for one in share.ready] == [(11, BEFORE), (14, BEFORE)]


def test_what_comes_again_is_not_handed_out_again_and_is_acknowledged_where_it_came_last() -> None:
    share = pull(delivered=4)
    share.take(came(11, 5))
    (out,) = hand_out([share], 10)

    assert share.take(came(11, 6)) is Arrival.TAKEN
    assert not share.ready
    assert share.accept([receipt_of(out)]) == [came(11, 6).reply]
    assert share.take(came(11, 7)) is Arrival.ACKNOWLEDGED_BEFORE


def test_what_was_read_from_the_stream_is_acknowledged_when_it_comes() -> None:
    share = pull(delivered=4)
    share.find(stored(9))
    (out,) = hand_out([share], 10)
    assert share.accept([receipt_of(out)]) == []

    assert share.take(came(9, 5)) is Arrival.ACKNOWLEDGED_BEFORE


@pytest.mark.parametrize("way", ["again", "later"])
def test_what_is_out_stays_and_what_was_ready_is_found_again(way: str) -> None:
    """Whether it is attached to anew at once, or laid aside until this instance is to go on with it."""
    share = pull()
    for number in (1, 2):
        share.take(came(number, number))
    (out,) = hand_out([share], 1)
    if way == "later":
        share.lay_aside()
        assert not share.ready
    share.attach(consumer(delivered=2))

    for number in (1, 2):
        share.find(stored(number))

    assert share.token is None
    assert bodies(share) == [b"2"]
    assert share.accept([receipt_of(out)]) == [came(1, 1).reply]


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.s.c.1.22.33.1700000000000000000.0",
        "$JS.ACK.hub.account.s.c.1.22.33.1700000000000000000.0",
        "$JS.ACK.hub.account.s.c.1.22.33.1700000000000000000.0.token",
    ],
)
def test_every_form_of_the_place_of_acknowledgement_is_read(reply: str) -> None:
    share = pull(delivered=32)

    assert share.take(SimpleNamespace(reply=reply, headers=None, data=b"")) is Arrival.TAKEN
    assert receipt_of(share.ready[0]).order == (22, 1_700_000_000_000_000_000)


@pytest.mark.parametrize("delivery", [1, 3, 5])
def test_a_number_that_does_not_follow_is_a_gap(delivery: int) -> None:
    """A higher one: somebody else was given something. A lower one: the consumer was made again."""
    share = pull(delivered=3 if delivery < 5 else 1)

    assert share.take(came(9, delivery)) is Arrival.GAP
    assert bodies(share) == []


def test_what_lies_where_something_settled_lay_is_another_message() -> None:
    """A stream that was removed and made again begins its sequences again; acknowledged unseen, it would be lost."""
    share = pull()
    share.take(came(1, 1))
    share.accept([receipt_of(one) for one in hand_out([share], 1)])
    share.attach(consumer(SECOND))

    assert share.take(came(1, 1, stored_at=AFTER)) is Arrival.TAKEN
    assert bodies(share) == [b"1 at 2000"]


def test_what_lies_where_something_is_out_is_another_message() -> None:
    share = pull()
    share.take(came(1, 1))
    old = hand_out([share], 1)
    share.attach(consumer(SECOND))
    new = came(1, 1, stored_at=AFTER)
    share.take(new)

    fresh = hand_out([share], 1)

    assert [one.message.body for one in fresh] == [b"1 at 2000"]
    assert share.accept([receipt_of(one) for one in old]) == [], "it would acknowledge the other"
    assert share.accept([receipt_of(one) for one in fresh]) == [new.reply]


def test_what_is_out_and_comes_from_a_consumer_made_again_is_acknowledged_there_and_handed_out_once() -> None:
    share = pull()
    share.take(came(1, 1))
    out = hand_out([share], 1)
    share.attach(consumer(SECOND))
    again = came(1, 1)

    assert share.take(again) is Arrival.TAKEN
    assert bodies(share) == []
    assert share.accept([receipt_of(one) for one in out]) == [again.reply]


def test_of_a_consumer_that_was_made_again_no_acknowledgement_is_believed() -> None:
    share = pull()
    done = structs.replace(consumer(SECOND, delivered=5), floor=5)
    assert share.attach(done) == 0
    assert share.attach(done) == 5
    assert share.attach(structs.replace(done, floor=2, pending=3)) == 2

    share.forget()

    assert share.attach(structs.replace(done, created=FIRST)) == 5, "somebody else has read it meanwhile"


def test_what_came_from_a_consumer_and_was_not_looked_at_is_left_when_another_is_followed() -> None:
    share = pull()
    share.came.append(came(1, 1))

    share.attach(consumer(SECOND))

    assert not share.came


@pytest.mark.parametrize(
    ("now", "follows"),
    [
        (consumer(delivered=2), True),
        (consumer(delivered=3), False),
        (consumer(SECOND, delivered=2), False),
        (consumer(SECOND), False),
        (None, False),
    ],
)
def test_a_consumer_that_was_made_again_is_not_followed_whatever_it_has_delivered(
    now: Consumer | None, *, follows: bool
) -> None:
    assert pull(delivered=2).follows(now) is follows


def test_of_what_is_on_its_way_nothing_is_missed() -> None:
    share = pull(delivered=2)
    share.came.append(came(3, 3))

    assert share.follows(consumer(delivered=3))
    assert not share.follows(consumer(SECOND, delivered=3))


@pytest.mark.parametrize(
    ("written", "nanoseconds"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("2031-05-17T08:00:00.123456789Z", 1_936_771_200_123_456_789),
    ],
)
async def test_the_time_of_a_stored_message_is_known_to_the_nanosecond(written: str, nanoseconds: int) -> None:
    class Stream(JetStream):
        async def ask(self, question: str, **what: Any) -> dict[str, Any]:
            return {"message": {"seq": 1, "time": written}}

    stored = await Stream(cast("NatsConnection", None)).message("s", "topic.order.0", at_least=1)

    assert stored == Stored(sequence=1, time_ns=nanoseconds, headers=b"", body=b"")


@pytest.mark.parametrize(
    ("sequences", "is_whole"),
    [([11, 12, 14], True), ([11, 12, 14, 17], True), ([12, 11, 14], False), ([11, 14], False), ([17, 18, 19], False)],
    ids=["all", "and what follows", "in another order", "one lacks", "only what follows"],
)
def test_what_comes_at_a_takeover_is_believed_only_if_all_that_is_pending_is_there_in_order(
    sequences: list[int], is_whole: bool
) -> None:
    """Else the stream is read, so that nothing overtakes what belongs before it."""
    before = structs.replace(consumer(delivered=14), pending=3)
    returned = [came(sequence, 15 + number) for number, sequence in enumerate(sequences)]

    assert pull().is_whole(returned, before) is is_whole


def test_what_may_be_removed_by_its_sequence_was_acknowledged_to_the_consumer_that_is_followed() -> None:
    """What was read from the stream is known as acknowledged when it has come."""
    share = pull(delivered=4)
    share.find(stored(9))
    share.take(came(11, 5))
    share.accept([receipt_of(one) for one in hand_out([share], 10)])
    assert list(share.acknowledged) == [11]
    share.take(came(9, 6))
    assert list(share.acknowledged) == [11, 9]

    share.trimmed(9)
    assert list(share.acknowledged) == [11]
    share.attach(consumer(SECOND))
    assert not share.acknowledged
