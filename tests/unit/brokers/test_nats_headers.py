"""Headers of NATS, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.brokers.nats.headers import block_of, headers_from, message_from
from pillarbox.brokers.nats.layout import channel_of, durable_of, stream_of, subject_of
from pillarbox.brokers.nats.pull import Arrival, Pull
from pillarbox.brokers.partitions import hand_out, receipt_of
from pillarbox.message import Message


def message(key: str | None = "o-1", **headers: str) -> Message:
    return Message(
        id="m-1",
        type="order.placed",
        destination="topic:order",
        key=key,
        content_type="application/json",
        headers={"source": "shop", **headers},
        body=b"{}",
    )


@given(st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_key_and_any_value_come_back(text: str) -> None:
    sent = message(key=text, note=text)
    block = block_of(sent)

    assert block.isascii()
    assert block.count(b"\r\n") == 2 + len(headers_from(block)), "no value breaks out of its line"
    assert message_from(headers_from(block), sent.body, channel=sent.destination, place="s/1") == sent


def test_names_hold_nothing_that_nats_forbids_and_are_undone() -> None:
    channel = "topic:order.items"

    assert stream_of(channel) == "topic:order=items"
    assert channel_of(stream_of(channel)) == channel
    assert subject_of(channel, 7) == "topic.order.items.7"
    assert durable_of("shop.eu/stock", 7) == "shop=eu~stock-7"


class Came:
    def __init__(self, sequence: int, delivery: int) -> None:
        self.reply = f"$JS.ACK.s.c.1.{sequence}.{delivery}.1700000000000000000.0"
        self.headers = headers_from(block_of(message()))
        self.data = b"{}"


def pull() -> Pull:
    share = Pull("topic.order.0", "topic:order", 0, stream="topic:order", durable="c-0")
    share.attach(following=5)
    return share


def test_deliveries_that_follow_each_other_are_taken() -> None:
    share = pull()

    assert [share.take(Came(11, 5)), share.take(Came(14, 6))] == [Arrival.TAKEN] * 2
    assert [receipt_of(one).order for one in share.ready] == [(11,), (14,)]


def test_a_delivery_that_somebody_else_got_shows() -> None:
    share = pull()
    share.take(Came(11, 5))

    assert share.take(Came(15, 7)) is Arrival.GAP
    assert len(share.ready) == 1


def test_what_comes_again_is_not_handed_out_again_and_is_acknowledged_where_it_came_last() -> None:
    share = pull()
    share.take(Came(11, 5))
    (out,) = hand_out([share], 10)

    assert share.take(Came(11, 6)) is Arrival.TAKEN
    assert not share.ready
    assert share.accept([receipt_of(out)]) == [Came(11, 6).reply]
    assert share.take(Came(11, 7)) is Arrival.ACKNOWLEDGED_BEFORE


def test_what_was_read_from_the_stream_is_acknowledged_when_it_comes() -> None:
    share = pull()
    share.find(9, headers_from(block_of(message())), b"{}")
    (out,) = hand_out([share], 10)
    assert share.accept([receipt_of(out)]) == []

    assert share.take(Came(9, 5)) is Arrival.ACKNOWLEDGED_BEFORE


def test_attaching_again_keeps_what_is_out_and_finds_the_rest_anew() -> None:
    share = pull()
    share.take(Came(11, 5))
    share.take(Came(12, 6))
    hand_out([share], 1)

    share.attach(following=7)

    assert share.knows(11)
    assert not share.knows(12)
    assert not share.ready


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.s.c.1.22.33.1700000000000000000.0",
        "$JS.ACK.hub.account.s.c.1.22.33.1700000000000000000.0",
        "$JS.ACK.hub.account.s.c.1.22.33.1700000000000000000.0.token",
    ],
)
def test_every_form_of_the_place_of_acknowledgement_is_read(reply: str) -> None:
    share = pull()
    share.attach(following=33)
    came = Came(0, 0)
    came.reply = reply

    assert share.take(came) is Arrival.TAKEN
    assert receipt_of(share.ready[0]).order == (22,)
