"""When a process is stuck, and what did not come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.flow import Flow, Graph, Missing, SeenMessage
from pillarbox.flow.policy import FlowInstance, FlowState, Judgement, is_of_interest, judge, looked_at, moved
from tests.unit.flow.shop import (
    CANCELLED,
    CHARGED,
    MINUTE,
    NOW,
    PLACED,
    REJECTED,
    RESERVE,
    RESERVED,
    SHIPPED,
    WHOLE,
    OrderPlaced,
    PaymentCharged,
    StockRejected,
    StockReserved,
    flow,
    graph,
    message,
    participant,
    without,
)

NEW = FlowInstance(flow="shop/fulfilment", correlation_id="m-1")
BEGUN = replace(NEW, state=FlowState.RUNNING, started_at=NOW, due_at=NOW + 10 * MINUTE)
FIRST = message(PLACED, "m-1")
PAID = message(CHARGED, "m-2", FIRST, seen_after=1)
STOCKED = message(RESERVED, "m-3", PAID, by_way_of=RESERVE, seen_after=2)
SENT = message(SHIPPED, "m-4", STOCKED, seen_after=3)
LATE = NOW + 10 * MINUTE


def after(messages: Sequence[SeenMessage], of: Flow, now: datetime = NOW) -> FlowInstance:
    instance = NEW
    for number, one in enumerate(messages):
        instance = moved(instance, one, of, now + timedelta(seconds=number))
    return instance


def judged(
    messages: Sequence[SeenMessage], at: datetime = LATE, *, of: Flow | None = None, known: Graph = WHOLE
) -> Judgement:
    return judge(BEGUN, messages, of or flow(), known, at)


def texts(judgement: Judgement) -> list[str]:
    return [str(one) for one in judgement.missing]


def test_a_process_runs_from_its_start_to_its_end() -> None:
    running = after([FIRST, PAID], flow())
    over = moved(running, SENT, flow(), NOW + MINUTE)

    assert (running.state, running.started_at, running.due_at) == (FlowState.RUNNING, NOW, NOW + 10 * MINUTE)
    assert (over.state, over.ended_by, over.ended_at, over.due_at) == (FlowState.ENDED, SHIPPED, NOW + MINUTE, None)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_in_whatever_order_its_messages_come_it_has_ended_and_is_waited_for_no_more(order: Sequence[int]) -> None:
    messages = [FIRST, PAID, STOCKED, SENT]

    over = after([messages[place] for place in order], flow(react_within={PaymentCharged: MINUTE}))

    assert (over.state, over.due_at) == (FlowState.ENDED, None)
    assert over.started_at is not None


def test_a_second_start_or_end_changes_nothing() -> None:
    once, twice = after([FIRST], flow()), after([FIRST, message(PLACED, "m-9")], flow())
    over = after([FIRST, SENT], flow())

    assert twice == once
    assert moved(over, message(CANCELLED, "m-9", FIRST), flow(), LATE) == over


def test_what_comes_before_the_start_is_not_judged() -> None:
    waiting = after([PAID], flow(react_within={PaymentCharged: MINUTE}))

    assert waiting.state is FlowState.WAITING
    assert judge(waiting, [PAID], flow(react_within={PaymentCharged: MINUTE}), WHOLE, LATE).missing == ()


def test_it_is_looked_at_when_the_first_of_its_times_is_over() -> None:
    hurried = flow(react_within={PaymentCharged: MINUTE})

    assert after([FIRST, PAID], hurried).due_at == NOW + timedelta(seconds=1) + MINUTE
    assert after([PAID, FIRST], hurried).due_at == NOW + MINUTE


def test_what_is_stuck_is_looked_at_again_when_anything_comes() -> None:
    stuck = replace(BEGUN, state=FlowState.STUCK, due_at=None)

    assert moved(stuck, STOCKED, flow(), LATE).due_at == LATE


def test_only_what_moves_a_process_needs_a_record_of_it() -> None:
    hurried = flow(react_within={PaymentCharged: MINUTE})

    assert [is_of_interest(one, flow()) for one in (FIRST, PAID, STOCKED, SENT)] == [True, False, False, True]
    assert is_of_interest(PAID, hurried)


def test_before_its_time_nothing_is_missing() -> None:
    judgement = judged([FIRST], LATE - timedelta(seconds=1))

    assert judgement == Judgement(missing=(), next_at=LATE)


def test_of_a_consumer_that_has_not_reacted_it_is_told_to_what_and_with_what() -> None:
    assert texts(judged([FIRST])) == [
        "order.shipped or order.cancelled has not come",
        "payment/charge has not reacted to order.placed (m-1) with payment.charged",
    ]


def test_a_consumer_that_reacts_by_a_command_is_told_of_with_who_takes_it() -> None:
    assert texts(judged([FIRST, PAID]))[1:] == [
        "shop/advance, by way of stock/take, has not reacted to payment.charged (m-2) with "
        "stock.rejected or stock.reserved"
    ]


def test_of_alternatives_one_is_enough() -> None:
    no = message(REJECTED, "m-3", PAID, by_way_of=RESERVE)

    assert texts(judged([FIRST, PAID, no]))[1:] == [
        "shop/cancel has not reacted to stock.rejected (m-3) with order.cancelled"
    ]


def test_of_a_consumer_that_is_gone_the_message_is_told_that_nobody_hears_and_what_was_to_come() -> None:
    known = without("shop/advance", "stock/take", "shop/thank")

    assert texts(judged([FIRST, PAID], known=known))[1:] == [
        "nothing has followed payment.charged (m-2): nobody known hears it, "
        "and stock.rejected or stock.reserved was to come"
    ]


def test_a_reaction_has_its_own_time_and_is_told_of_before_the_end_is_late() -> None:
    hurried = flow(react_within={PaymentCharged: MINUTE})

    before = judged([FIRST, PAID], PAID.seen_at + MINUTE - timedelta(microseconds=1), of=hurried)  # type: ignore[operator]
    at = judged([FIRST, PAID], PAID.seen_at + MINUTE, of=hurried)  # type: ignore[operator]
    met = judged([FIRST, PAID, STOCKED], PAID.seen_at + MINUTE, of=hurried)  # type: ignore[operator]

    assert before == Judgement(missing=(), next_at=PAID.seen_at + MINUTE)  # type: ignore[operator]
    assert [one.consumer for one in at.missing] == ["shop/advance"]
    assert at.next_at == met.next_at == LATE
    assert met.missing == ()


@pytest.mark.parametrize("known", [WHOLE, Graph(), without("shop/advance", "stock/take")])
def test_what_is_expected_may_be_said_and_holds_whatever_the_graph_knows(known: Graph) -> None:
    said = flow(expects={PaymentCharged: [StockReserved, StockRejected]}, react_within={PaymentCharged: MINUTE})
    at = NOW + 2 * MINUTE

    assert [(one.after, one.types) for one in judged([FIRST, PAID], at, of=said, known=known).missing] == [
        (CHARGED, (REJECTED, RESERVED))
    ]
    assert judged([FIRST, PAID, STOCKED], at, of=said, known=known).missing == ()


def test_where_nothing_is_known_anything_is_a_reaction() -> None:
    hurried = flow(react_within={PaymentCharged: MINUTE})

    assert texts(judged([FIRST, PAID], NOW + 2 * MINUTE, of=hurried, known=Graph())) == [
        "nothing has followed payment.charged (m-2)"
    ]
    assert judged([FIRST, PAID, STOCKED], NOW + 2 * MINUTE, of=hurried, known=Graph()).missing == ()


def test_who_does_not_say_what_it_publishes_is_expected_to_publish_something_where_a_time_is_said() -> None:
    known = graph(participant("shop/open", CHARGED, is_open=True))
    hurried = flow(react_within={PaymentCharged: MINUTE})

    assert texts(judged([FIRST, PAID], NOW + 2 * MINUTE, of=hurried, known=known)) == [
        "shop/open has not reacted to payment.charged (m-2)"
    ]


def test_of_two_messages_of_a_type_each_needs_its_own_reaction() -> None:
    also_paid = message(CHARGED, "m-5", FIRST)
    direct = without("shop/advance", "stock/take").merged(graph(participant("stock/take", CHARGED, RESERVED)))
    one = message(RESERVED, "m-6", also_paid)

    assert [one.message_id for one in judged([FIRST, PAID, also_paid, one], known=direct).missing[1:]] == ["m-2", "m-6"]


def test_a_reaction_of_unknown_descent_is_counted_once() -> None:
    also_paid = message(CHARGED, "m-5", FIRST)

    one = judged([FIRST, PAID, also_paid, STOCKED]).missing
    both = judged([FIRST, PAID, also_paid, STOCKED, message(RESERVED, "m-7", also_paid, by_way_of=RESERVE)]).missing

    assert [missing.after for missing in one] == [None, CHARGED, RESERVED]
    assert [missing.after for missing in both] == [None, RESERVED, RESERVED]


def test_each_thing_that_is_missing_is_told_of_once_and_the_rest_when_it_is_late() -> None:
    hurried = flow(react_within={PaymentCharged: MINUTE})
    early = judged([FIRST, PAID], NOW + 2 * MINUTE, of=hurried)
    stuck, new = looked_at(BEGUN, early, NOW + 2 * MINUTE)
    again, nothing = looked_at(stuck, early, NOW + 3 * MINUTE)
    end, more = looked_at(again, judge(again, [FIRST, PAID], hurried, WHOLE, LATE), LATE)

    assert (stuck.state, stuck.stuck_at, [one.consumer for one in new]) == (
        FlowState.STUCK,
        NOW + 2 * MINUTE,
        ["shop/advance"],
    )
    assert (again.stuck_at, nothing) == (NOW + 2 * MINUTE, ())
    assert [one.after for one in more] == [None]
    assert (end.due_at, len(end.missing)) == (None, 2)


def test_after_the_missing_end_was_told_of_what_comes_late_is_no_reason_to_tell_more() -> None:
    stuck, _ = looked_at(BEGUN, judged([FIRST]), LATE)
    later = judged([FIRST, PAID], LATE + MINUTE)

    again, new = looked_at(stuck, later, LATE + MINUTE)

    assert [one.consumer for one in later.missing] == [None, "shop/advance"]
    assert new == ()
    assert again.missing == tuple(texts(later))


def test_what_comes_after_all_lets_the_process_go_on() -> None:
    hurried = flow(react_within={PaymentCharged: MINUTE})
    stuck, _ = looked_at(BEGUN, judged([FIRST, PAID], NOW + 2 * MINUTE, of=hurried), NOW + 2 * MINUTE)
    moved_on = moved(stuck, STOCKED, hurried, NOW + 3 * MINUTE)

    running, new = looked_at(
        moved_on, judge(moved_on, [FIRST, PAID, STOCKED], hurried, WHOLE, NOW + 3 * MINUTE), NOW + 3 * MINUTE
    )

    assert (running.state, running.stuck_at, running.due_at, running.missing, new) == (
        FlowState.RUNNING,
        None,
        LATE,
        (),
        (),
    )


def test_a_sentence_names_a_few_of_many_types() -> None:
    many = Missing(key="end", after=None, message_id=None, consumer=None, types=tuple("abcdefg"))

    assert str(many) == "a, b, c, d, e or another of 7 has not come"


MESSAGES = [FIRST, message(PLACED, "m-8"), PAID, STOCKED, message(REJECTED, "m-7", PAID), SENT]


@given(st.lists(st.sampled_from(MESSAGES)), st.integers(0, 1200))
def test_no_process_is_forgotten(told: list[SeenMessage], seconds: int) -> None:
    """Whatever comes in whatever order: what has started and not ended is due, or stuck and told of (no dark state)."""
    hurried = flow(react_within={PaymentCharged: MINUTE, OrderPlaced: 2 * MINUTE})
    instance = after(told, hurried)
    now = NOW + timedelta(seconds=seconds)
    if instance.started_at is not None and instance.state is not FlowState.ENDED:
        assert instance.due_at is not None
        instance, new = looked_at(instance, judge(instance, list(dict.fromkeys(told)), hurried, WHOLE, now), now)
        assert instance.due_at is not None or (instance.state is FlowState.STUCK and new)
        assert instance.due_at is None or instance.due_at > now
    if any(one.type == SHIPPED for one in told):
        assert instance.state is FlowState.ENDED
    elif any(one.type == PLACED for one in told):
        assert instance.state in (FlowState.RUNNING, FlowState.STUCK)
