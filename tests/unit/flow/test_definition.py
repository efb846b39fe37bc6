"""What a flow may be declared as."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pillarbox import Pillarbox, Settings
from pillarbox.errors import ConfigurationError
from tests.unit.flow.shop import (
    MINUTE,
    OrderCancelled,
    OrderPlaced,
    OrderShipped,
    PaymentCharged,
    ReserveStock,
    StockRejected,
    StockReserved,
)


def declare(box: Pillarbox | None = None, **changed: Any) -> Any:
    said: dict[str, Any] = {"starts": OrderPlaced, "ends": (OrderShipped, OrderCancelled), "within": MINUTE}
    return (box or Pillarbox("shop", store="memory://")).flow("fulfilment", **{**said, **changed})


def test_a_flow_is_known_by_its_service_and_name_and_has_the_types_that_it_names() -> None:
    declared = declare(
        react_within={PaymentCharged: timedelta(seconds=5)},
        expects={PaymentCharged: (StockReserved, StockRejected)},
        rejections=StockRejected,
    )

    assert declared.identity == "shop/fulfilment"
    assert (declared.starts, declared.ends) == (("order.placed",), ("order.shipped", "order.cancelled"))
    assert declared.expects == {"payment.charged": ("stock.reserved", "stock.rejected")}
    assert declared.shortest == timedelta(seconds=5)
    assert {passage.type for passage in declared.events} == {
        "order.placed",
        "order.shipped",
        "order.cancelled",
        "payment.charged",
        "stock.reserved",
        "stock.rejected",
    }


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"starts": ReserveStock}, "is a command"),
        ({"starts": int}, "not declared as a message"),
        ({"starts": ()}, "an event that starts it"),
        ({"ends": (OrderPlaced, OrderShipped)}, "start it and end it"),
        ({"within": timedelta(0)}, "above zero"),
        ({"react_within": {PaymentCharged: timedelta(0)}}, "above zero"),
        ({"react_within": {PaymentCharged: 2 * MINUTE}}, "the whole flow"),
        ({"react_within": {OrderShipped: MINUTE}}, "ends it"),
        ({"expects": {PaymentCharged: ()}}, "names no event"),
        ({"within": timedelta(days=4)}, "keep_flows"),
        ({"within": timedelta.max}, "at most 36500 days"),
        ({"starts": 3}, "starts= must be a class or a list"),
        ({"starts": "order.placed"}, "starts= must be a class or a list"),
        ({"ends": (OrderShipped, 3)}, "ends= must be a class or a list"),
        ({"react_within": 3}, "react_within= must be a mapping"),
        ({"expects": 3}, "expects= must be a mapping"),
        ({"expects": {OrderPlaced: 3}}, "expects= must be a class or a list"),
        ({"rejections": 3}, "rejections= must be a class or a list"),
    ],
)
def test_what_means_nothing_is_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        declare(**changed)


def test_a_name_is_given_once() -> None:
    box = Pillarbox("shop", store="memory://")
    declare(box)

    with pytest.raises(ConfigurationError, match="two flows"):
        declare(box)


def test_what_is_seen_can_be_kept_for_longer() -> None:
    box = Pillarbox("shop", store="memory://", settings=Settings(keep_flows=timedelta(days=30)))

    assert declare(box, within=timedelta(days=15)).within == timedelta(days=15)


@pytest.mark.parametrize("facts", [{}, {"consumers": [{"hears": 1}]}, {"consumers": [{"consumer": "a", "hears": [1]}]}])
def test_what_is_no_graph_is_not_included(facts: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="no graph"):
        Pillarbox("shop", store="memory://").flows.include(facts)
