"""What is sent and what the server said of it; what came and what is to be acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pillarbox.brokers.partitions import hand_out
from pillarbox.brokers.rabbitmq.channel import Channel, ChannelClosedError
from pillarbox.brokers.rabbitmq.confirms import NOT_SENT, Batch, Confirms
from pillarbox.brokers.rabbitmq.share import QueueShare
from pillarbox.channel import Confirmed, NotReady, Refused, Unknown
from pillarbox.message import Message

if TYPE_CHECKING:
    from pillarbox.brokers.partitions import Receipt
    from pillarbox.channel import Delivery


def message(identity: str, *, destination: str = "topic:a", body: bytes = b"") -> Message:
    return Message(
        id=identity, type="t", destination=destination, key=None, content_type="text/plain", headers={}, body=body
    )


def sent(*messages: Message) -> tuple[Confirms, Batch]:
    confirms, batch = Confirms(), Batch(messages, [NOT_SENT] * len(messages))
    for place in range(len(messages)):
        confirms.sent(batch, place)
    return confirms, batch


class TestConfirms:
    def test_one_word_may_be_about_many(self) -> None:
        confirms, batch = sent(*(message(str(number)) for number in range(4)))

        confirms.answered(2, multiple=False, kept=False)
        confirms.answered(3, multiple=True, kept=True)

        assert [type(one) for one in batch.results] == [Confirmed, NotReady, Confirmed, Unknown]
        assert batch.left == 1

    def test_what_was_returned_is_not_ready_although_it_is_confirmed(self) -> None:
        confirms, batch = sent(message("1"), message("1", destination="topic:b"), message("2"))

        confirms.returned("topic:b", "1")
        confirms.returned("topic:b", "who knows")
        confirms.answered(3, multiple=True, kept=True)

        assert [type(one) for one in batch.results] == [Confirmed, NotReady, Confirmed]

    def test_of_the_same_message_twice_the_first_comes_back_first(self) -> None:
        confirms, batch = sent(message("1"), message("1"))

        confirms.returned("topic:a", "1")
        confirms.answered(2, multiple=True, kept=True)

        assert [type(one) for one in batch.results] == [NotReady, Confirmed]

    def test_what_is_lost_is_unknown_but_for_what_is_known_of_it(self) -> None:
        confirms, batch = sent(message("1"), message("2", body=b"x" * 11), message("3"))
        confirms.returned("topic:a", "3")

        confirms.lost("406 PRECONDITION_FAILED - message size 11 is larger than configured max size 10")

        assert [type(one) for one in batch.results] == [Unknown, Refused, NotReady]
        assert batch.left == 0

    def test_what_nobody_waits_for_any_longer_is_not_ready_and_what_comes_late_is_ignored(self) -> None:
        confirms, batch = sent(message("1"), message("2"))
        confirms.answered(1, multiple=False, kept=True)

        confirms.leave_open(batch)
        confirms.answered(2, multiple=True, kept=True)

        assert [type(one) for one in batch.results] == [Confirmed, NotReady]
        assert batch.left == 0

    def test_a_word_that_comes_twice_or_about_nothing_is_ignored(self) -> None:
        confirms, batch = sent(message("1"))

        for _ in range(2):
            confirms.answered(1, multiple=False, kept=True)
        confirms.answered(7, multiple=True, kept=False)

        assert batch.results == [Confirmed()]
        assert batch.left == 0


class StandInChannel:
    """A channel as a share sees it."""

    def __init__(self) -> None:
        self.closed: Exception | None = None
        self.left = False

    def leave(self) -> None:
        self.left = True


def share_with(*identities: str) -> tuple[QueueShare, StandInChannel]:
    share, channel = QueueShare("topic:a/shop/c/0", "topic:a", 0), StandInChannel()
    share.read_by(cast("Channel", channel), token=1)
    for tag, identity in enumerate(identities, start=1):
        share.arrived(tag, tag, message(identity))
    return share, channel


def receipts(deliveries: list[Delivery]) -> list[Receipt]:
    return [cast("Receipt", one.receipt) for one in deliveries]


def ids(deliveries: list[Delivery]) -> list[str]:
    return [one.message.id for one in deliveries]


class TestShare:
    def test_what_is_accepted_from_the_front_is_acknowledged_together(self) -> None:
        share, _ = share_with(*"abcdef")
        out = receipts(hand_out([share], 6))

        assert share.accept([out[0], out[1], out[3]]) == [(2, True), (4, False)]
        assert share.accept([out[5]]) == [(6, False)]
        assert share.accept([out[2], out[4]]) == [(5, True)]
        assert share.unsettled == {}

    def test_what_is_accepted_twice_is_acknowledged_once(self) -> None:
        share, _ = share_with("a")
        out = receipts(hand_out([share], 1))

        assert share.accept(out) == [(1, True)]
        assert share.accept(out) == []
        share.give_back(out)
        assert hand_out([share], 1) == []

    def test_what_is_returned_comes_before_what_follows_it(self) -> None:
        share, _ = share_with(*"abc")
        share.give_back(receipts(hand_out([share], 2)))

        assert ids(hand_out([share], 3)) == ["a", "b", "c"]

    def test_what_was_laid_aside_is_made_ready_again(self) -> None:
        """A share that was to be given back and is to be kept after all."""
        share, _ = share_with(*"abc")
        hand_out([share], 1)
        share.ready.clear()

        share.restore()

        assert ids(hand_out([share], 3)) == ["b", "c"]

    def test_a_share_whose_channel_was_lost_is_read_again_once_nothing_of_it_is_out(self) -> None:
        share, channel = share_with(*"ab")
        out = receipts(hand_out([share], 1))
        channel.closed = ChannelClosedError(406, "timed out")

        assert share.notice_loss() is channel.closed
        assert hand_out([share], 2) == []
        assert not share.is_to_be_opened(0.0)
        share.give_back(out)
        assert share.is_to_be_opened(0.0)

    def test_a_receipt_of_a_channel_that_was_lost_settles_nothing_of_the_next(self) -> None:
        share, channel = share_with("a")
        stale = receipts(hand_out([share], 1))
        channel.closed = ChannelClosedError(406, "timed out")
        share.notice_loss()
        share.settle(stale)
        share.read_by(cast("Channel", StandInChannel()), token=1)
        share.arrived(2, 1, message("a"))

        assert share.accept(stale) == []
        assert ids(hand_out([share], 1)) == ["a"]

    def test_what_came_by_a_channel_that_was_lost_need_not_be_begun_and_is_waited_for_no_more(self) -> None:
        share, channel = share_with(*"ab")
        first, second = hand_out([share], 2)
        assert share.still_has(first)
        channel.closed = ChannelClosedError(406, "timed out")

        assert not share.still_has(second)
        share.notice_loss()
        assert not share.is_to_be_opened(0.0)
        assert not share.still_has(first)
        assert share.is_to_be_opened(0.0)

    def test_letting_go_closes_the_channel(self) -> None:
        share, channel = share_with("a")

        share.forget()

        assert channel.left
        assert (share.reader, share.known, share.token) == (None, 0, None)
