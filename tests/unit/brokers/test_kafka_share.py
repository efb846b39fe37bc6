"""Book-keeping of partitions: what is handed out, and how far everything is finished."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.brokers.kafka import share as module
from pillarbox.brokers.kafka.share import Receipt, Share, Shares, receipt_of
from pillarbox.channel import OUT_OF_A_PLACE, Delivery
from pillarbox.message import Message

HERE = ("order", 0)


def delivery(offset: int, share: Share) -> Delivery:
    message = Message(
        id=f"m{offset}", type="t", destination="topic:order", key="k", content_type="", headers={}, body=b""
    )
    return Delivery(message=message, receipt=Receipt(share.topic, share.partition, offset, share.assignment))


def read(shares: Shares, *offsets: int) -> Share:
    (share,) = shares.of([HERE])
    for offset in offsets:
        share.take(delivery(offset, share))
    return share


def offsets_of(deliveries: list[Delivery]) -> list[int]:
    return [receipt_of(one).offset for one in deliveries]


def with_partition() -> Shares:
    shares = Shares()
    shares.gain([HERE])
    return shares


def test_gaps_between_offsets_are_none_of_our_business() -> None:
    shares = with_partition()
    share = read(shares, 3, 7, 8)

    shares.accept(shares.hand_out(10))

    assert share.due == 9


def test_a_finished_message_does_not_carry_the_place_over_an_unfinished_one() -> None:
    shares = with_partition()
    share = read(shares, 0, 1, 2)
    out = shares.hand_out(10)

    shares.accept(out[1:])

    assert share.due == 0
    shares.accept(out[:1])
    assert share.due == 3


def test_what_is_returned_comes_before_what_follows_it() -> None:
    shares = with_partition()
    read(shares, 0, 1, 2, 3)
    out = shares.hand_out(3)
    shares.accept(out[:1])

    shares.give_back(out[1:])

    assert offsets_of(shares.hand_out(10)) == [1, 2, 3]


def test_receipts_of_an_earlier_assignment_are_stale() -> None:
    shares = with_partition()
    read(shares, 0, 1)
    stale = shares.hand_out(10)
    shares.lose([HERE])
    shares.gain([HERE])
    share = read(shares, 0, 1)
    fresh = shares.hand_out(10)

    shares.accept(stale[:1])
    shares.give_back(stale[1:])

    assert share.due == 0
    assert shares.hand_out(10) == []
    shares.accept(fresh)
    assert share.due == 2


def test_a_partition_that_leaves_hands_out_nothing_and_still_settles() -> None:
    shares = with_partition()
    share = read(shares, 0, 1, 2, 3)
    out = shares.hand_out(2)

    share.leave()
    shares.accept(out[:1])

    assert shares.hand_out(10) == []
    assert share.due == 1
    shares.give_back(out[1:])
    assert share.due == 1, "what was returned is not finished"
    assert not share.out


@pytest.mark.parametrize("before", [True, False], ids=["before it leaves", "while it leaves"])
def test_what_was_returned_of_a_partition_that_leaves_is_not_passed_by_what_is_out(before: bool) -> None:
    shares = with_partition()
    share = read(shares, *range(5))
    out = shares.hand_out(10)
    shares.accept(out[1:4])

    if before:
        shares.give_back(out[:1])
    share.leave()
    if not before:
        shares.give_back(out[:1])

    assert list(share.out) == [4]
    assert share.due == 0


def test_partitions_take_turns() -> None:
    shares = Shares()
    shares.gain([("order", 0), ("order", 1)])
    for share in shares.all():
        for offset in range(4):
            share.take(delivery(offset, share))

    first = {receipt_of(one).partition for one in shares.hand_out(2)}
    second = {receipt_of(one).partition for one in shares.hand_out(2)}

    assert first != second


@given(st.data())
def test_the_place_is_always_the_lowest_unfinished(data: st.DataObject) -> None:
    shares = with_partition()
    unread, finished, out = iter(range(1000)), set[int](), list[Delivery]()
    seen = list[int]()
    for _ in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["read", "hand out", "accept", "return", "know", "leave"]))
        (share,) = shares.of([HERE])
        if action == "read":
            read(shares, *[next(unread) for _ in range(data.draw(st.integers(1, 5)))])
        elif action == "hand out":
            got = shares.hand_out(data.draw(st.integers(1, 6)))
            seen += offsets_of(got)
            out += got
        elif action == "leave":
            share.leave()
        elif action == "know":
            share.committed = share.due if share.due is not None else share.committed
        elif out:
            chosen = data.draw(st.lists(st.sampled_from(out), unique_by=id, min_size=1))
            out = [one for one in out if one not in chosen]
            if action == "accept":
                shares.accept(chosen)
                finished |= set(offsets_of(chosen))
            else:
                shares.give_back(chosen)

    (share,) = shares.of([HERE])
    share.committed = None
    expected = next(offset for offset in range(1001) if offset not in finished)
    assert share.due == (expected if share.next is not None else None)
    firsts = list(dict.fromkeys(seen))
    assert firsts == sorted(firsts), "first hand-outs come in order"


def test_a_partition_of_which_enough_is_out_is_set_aside_until_little_of_it_is_ready() -> None:
    shares = with_partition()
    shares.gain([("order", 1)])
    read(shares, *range(3 * OUT_OF_A_PLACE))
    out = shares.hand_out(10 * OUT_OF_A_PLACE)

    shares.set_aside()

    assert (shares.aside, shares.ready, shares.take_up()) == ([HERE], 0, [])
    shares.accept(out)
    out = shares.hand_out(10 * OUT_OF_A_PLACE)
    assert shares.take_up() == []
    shares.accept(out[:1])
    shares.hand_out(10)
    assert (shares.take_up(), shares.aside, shares.ready) == ([HERE], [], OUT_OF_A_PLACE - 1)


@pytest.mark.parametrize("limit", ["ASIDE_AT_MOST", "ASIDE_BYTES_AT_MOST"])
def test_no_more_is_set_aside_than_there_is_room_for(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, limit, 0 if limit == "ASIDE_AT_MOST" else -1)
    shares = with_partition()
    read(shares, *range(OUT_OF_A_PLACE + 1))
    shares.hand_out(OUT_OF_A_PLACE)

    shares.set_aside()

    assert (shares.aside, shares.ready) == ([], 1)
