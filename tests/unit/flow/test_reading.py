"""What a graph says is what handlers declare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import ContentBasedRouter, Context, MessageFilter, Pillarbox, WireTap
from pillarbox.errors import ConfigurationError, InvalidSetupError
from tests.unit.flow.shop import (
    MINUTE,
    OrderCancelled,
    OrderPlaced,
    OrderShipped,
    PaymentCharged,
    ReserveStock,
    StockRejected,
    StockReserved,
    at,
)

if TYPE_CHECKING:
    from pillarbox.flow import Participant


def make_box() -> Pillarbox:
    return Pillarbox("shop", store="memory://")


def read(handler: Any, **options: Any) -> Participant:
    box = make_box()
    box.on(OrderPlaced, name="handle", **options)(handler)
    (one,) = box.flows.graph().participants
    return one


def names(one: Participant) -> list[str]:
    return [passage.type for passage in one.publishes]


async def one(order: OrderPlaced) -> PaymentCharged: ...  # type: ignore[empty-body]
async def either(order: OrderPlaced) -> StockReserved | StockRejected: ...  # type: ignore[empty-body]
async def both(order: OrderPlaced) -> tuple[StockReserved, ReserveStock]: ...  # type: ignore[empty-body]
async def many(order: OrderPlaced) -> list[StockReserved | StockRejected]: ...  # type: ignore[empty-body]
async def some(order: OrderPlaced) -> tuple[StockReserved, ...]: ...  # type: ignore[empty-body]
async def perhaps(order: OrderPlaced) -> StockReserved | None: ...
async def nothing(order: OrderPlaced) -> None: ...
async def after_payment(payment: PaymentCharged) -> None: ...
async def unsaid(order: OrderPlaced): ...  # type: ignore[no-untyped-def]
async def anything(order: OrderPlaced) -> Any: ...
async def by_context(order: OrderPlaced, ctx: Context) -> None: ...
async def with_context(order: OrderPlaced, ctx: Context) -> StockReserved: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("handler", "publishes", "silent", "is_open"),
    [
        (one, ["payment.charged"], False, False),
        (either, ["stock.rejected", "stock.reserved"], False, False),
        (both, ["stock.reserve", "stock.reserved"], False, False),
        (many, ["stock.rejected", "stock.reserved"], True, False),
        (some, ["stock.reserved"], True, False),
        (perhaps, ["stock.reserved"], True, False),
        (nothing, [], True, False),
        (unsaid, [], False, True),
        (anything, [], False, True),
        (by_context, [], False, True),
        (with_context, ["stock.reserved"], False, False),
    ],
)
def test_what_a_handler_publishes_is_what_it_returns(
    handler: Any, publishes: list[str], silent: bool, is_open: bool
) -> None:
    found = read(handler)

    assert found.hears == (at("order.placed"),)
    assert (names(found), found.may_be_silent, found.is_open) == (publishes, silent, is_open)


def test_what_it_publishes_by_its_context_is_said() -> None:
    found = read(by_context, publishes=[StockReserved, ReserveStock])

    assert (names(found), found.may_be_silent, found.is_open) == (["stock.reserve", "stock.reserved"], True, False)


def test_what_is_said_to_be_published_must_be_a_message() -> None:
    with pytest.raises(InvalidSetupError, match="not declared as a message"):
        read(by_context, publishes=[int])


def test_a_command_is_heard_by_its_consumer() -> None:
    box = make_box()

    @box.on(ReserveStock, name="take")
    async def take(command: ReserveStock) -> StockReserved | StockRejected: ...  # type: ignore[empty-body]

    (found,) = box.flows.graph().participants

    assert found.hears == (at("stock.reserve"),)


def test_a_route_forwards_what_it_hears_to_its_channels_and_another_may_go_on_from_there() -> None:
    box = make_box()
    box.include(ContentBasedRouter("split", source=OrderPlaced, default="slow").when(lambda m: True, to="fast"))
    box.include(MessageFilter("sift", source="fast", keep=lambda m: True, to="chosen"))
    box.include(WireTap("listen", source=OrderPlaced, to="audit"))

    @box.on(OrderPlaced, name="handle", channel="chosen")
    async def handle(order: OrderPlaced) -> PaymentCharged: ...  # type: ignore[empty-body]

    found = {one.consumer: one for one in box.flows.graph().participants}

    assert [passage.channel for passage in found["shop/split"].publishes] == ["queue:fast", "queue:slow"]
    assert [tuple(passage) for passage in found["shop/sift"].hears] == [("order.placed", "queue:fast")]
    assert [tuple(passage) for passage in found["shop/sift"].publishes] == [("order.placed", "queue:chosen")]
    assert [tuple(passage) for passage in found["shop/handle"].hears] == [("order.placed", "queue:chosen")]
    assert [one.may_be_silent for one in found.values()] == [False, False, True, False]
    after = box.flows.graph().after([at("order.placed")])
    assert at("payment.charged") in after


def test_what_watches_flows_is_a_consumer_of_the_box_and_takes_no_part() -> None:
    box = make_box()
    box.on(OrderPlaced, name="handle")(one)
    box.on(PaymentCharged, name="advance")(after_payment)
    box.flow("fulfilment", starts=OrderPlaced, ends=(OrderShipped, OrderCancelled), within=MINUTE)

    tracker = box.consumers()[-1]

    assert tracker.identity == "shop/flow-tracker"
    assert tracker.channels == ("topic:order", "topic:payment")
    assert tracker.message_types == {"order.placed", "payment.charged", "order.shipped", "order.cancelled"}
    assert [one.consumer for one in box.flows.graph().participants] == ["shop/advance", "shop/handle"]
    assert (box.flows.graph().starts, box.flows.graph().ends) == (
        ("order.placed",),
        ("order.shipped", "order.cancelled"),
    )


def test_its_name_is_taken() -> None:
    box = make_box()
    box.on(OrderPlaced, name="flow-tracker")(one)

    with pytest.raises(ConfigurationError, match="is taken"):
        box.consumers()


def test_a_box_without_flows_has_no_tracker() -> None:
    box = make_box()
    box.on(
        OrderPlaced,
        name="handle",
    )(one)

    assert [one.identity for one in box.consumers()] == ["shop/handle"]


def test_the_graph_of_other_services_is_included_as_json_or_as_it_is() -> None:
    payment, stock, box = (Pillarbox(name, store="memory://") for name in ("payment", "stock", "shop"))
    payment.on(OrderPlaced, name="charge")(one)
    stock.on(PaymentCharged, name="reserve")(some_reserve)
    box.on(StockReserved, name="ship")(ship)
    box.flow("fulfilment", starts=OrderPlaced, ends=OrderShipped, within=MINUTE)
    for graph in (payment.flows.graph().as_dict(), stock.flows.graph()):
        box.flows.include(graph)

    assert [one.consumer for one in box.flows.graph().participants] == ["payment/charge", "shop/ship", "stock/reserve"]
    assert box.consumers()[-1].channels == ("topic:order", "topic:payment", "topic:stock")
    assert box.flows.check() == ()


async def some_reserve(event: PaymentCharged) -> StockReserved: ...  # type: ignore[empty-body]
async def ship(event: StockReserved, tx: AsyncConnection) -> OrderShipped: ...  # type: ignore[empty-body]
