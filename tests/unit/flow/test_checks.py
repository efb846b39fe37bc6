"""What can be told to be wrong with a flow before anything runs."""

from __future__ import annotations

import pytest

from pillarbox.flow import Graph
from pillarbox.flow.checks import check
from tests.unit.flow.shop import (
    CANCEL,
    CHARGE,
    CHARGED,
    EVERYBODY,
    PLACED,
    REJECTED,
    RESERVED,
    WHOLE,
    StockRejected,
    flow,
    graph,
    participant,
    without,
)

FLOW = flow(rejections=[StockRejected])


def found(known: Graph) -> list[tuple[str, str, str]]:
    return [(one.severity.value, one.code, one.subject) for one in check([FLOW], known)]


def test_nothing_is_wrong_with_a_flow_that_comes_to_its_ends() -> None:
    assert found(WHOLE) == []


def test_an_end_that_no_way_leads_to_is_told_of() -> None:
    assert ("warning", "no-way-to-end", PLACED) in found(without("payment/charge"))


def test_an_event_that_nobody_hears_is_told_of_and_one_that_nobody_publishes() -> None:
    told = found(without("stock/take", "shop/advance"))

    assert ("warning", "unpublished-event", RESERVED) in told
    assert ("warning", "unpublished-event", REJECTED) in told
    assert ("warning", "unheard-event", CHARGED) in found(without("stock/take", "shop/advance", "shop/thank"))


def test_a_rejection_without_a_reaction_that_leads_to_an_end_is_told_of() -> None:
    assert found(without("shop/cancel")) == [("warning", "rejection-without-reaction", REJECTED)]


def test_a_reaction_that_leads_nowhere_is_none() -> None:
    mourn = participant("shop/mourn", REJECTED)

    assert found(graph(*(one for one in EVERYBODY if one is not CANCEL), mourn)) == [
        ("warning", "rejection-without-reaction", REJECTED)
    ]


def test_a_cycle_without_an_end_cannot_work() -> None:
    again = participant("shop/again", CHARGED, PLACED)

    assert found(graph(CHARGE, again))[0] == ("error", "endless-cycle", "order.placed, payment.charged")


@pytest.mark.parametrize("leaves", ["silent", "is_open"])
def test_a_cycle_that_somebody_may_leave_is_only_doubtful(leaves: str) -> None:
    again = participant("shop/again", CHARGED, PLACED, **{leaves: True})

    assert ("warning", "endless-cycle", "order.placed, payment.charged") in found(graph(CHARGE, again))


def test_a_cycle_that_leads_to_an_end_is_none() -> None:
    retry = participant("shop/retry", REJECTED, CHARGED, "order.cancelled")

    assert found(graph(*(one for one in EVERYBODY if one is not CANCEL), retry)) == []


def test_who_does_not_say_what_it_publishes_is_only_hinted_at() -> None:
    closed = participant("shop/thank", CHARGED, is_open=True)

    told = found(graph(*(one for one in EVERYBODY if one.consumer != "shop/thank"), closed))

    assert told == [("hint", "open-consumer", "shop/thank")]
