"""Routes at work in a box: where messages arrive, in which order, how often, and what becomes of those with no way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import (
    ContentBasedRouter,
    Context,
    Handlers,
    MessageFilter,
    Pillarbox,
    RecipientList,
    Unordered,
    WireTap,
    command,
    event,
)
from pillarbox.errors import ConfigurationError, DuplicateConsumerError, InvalidSetupError, UnreachableRuleError
from pillarbox.observe import DestinationNotReady, DuplicateSuppressed, MessageDead, MessageFiltered, MessageRouted
from pillarbox.outbox import record_of
from pillarbox.relational.tables import queue
from pillarbox.serialization import UNREADABLE
from pillarbox.testing import Harness
from tests.integration.boxes import (
    ChargePayment,
    OrderPlaced,
    create_tables,
    make_box,
    note,
    noted,
    publish,
    tables,
)
from tests.messages import message
from tests.waiting import wait_until

EVEN = {"field": "body.number", "operator": "in", "value": [0, 2, 4, 6, 8]}
LARGE = {"field": "body.number", "operator": "ge", "value": 100}


@event("order.rated", key="order_id")
@dataclass(frozen=True)
class OrderRated:
    """An event of the orders' topic that the router has no class for."""

    order_id: str


@command("order.ship", queue="shipping", key="order_id")
@dataclass(frozen=True)
class ShipOrder:
    """A command."""

    order_id: str


def desk(box: Pillarbox, name: str, *types: type[Any], channel: str | None = None) -> None:
    """Declare a consumer of ``channel`` that notes what comes."""

    async def take(taken: Any, tx: AsyncConnection, ctx: Context) -> None:
        number = getattr(taken, "number", "-")
        await note(tx, f"{name} {taken.order_id} {number}")

    box.on(*(types or (OrderPlaced,)), name=name, channel=channel or name)(take)


async def seen(box: Pillarbox, name: str) -> list[str]:
    """What the desk ``name`` has noted, in order."""
    return [what.partition(" ")[2] for what in await noted(box) if what.startswith(f"{name} ")]


async def test_a_router_sends_each_message_where_the_first_match_says_in_the_order_of_its_key(store_url: str) -> None:
    box, happenings = make_box(store_url)
    router = ContentBasedRouter("orders", source=OrderPlaced, default="rest")
    box.include(router.when(LARGE, to="large").when(EVEN, to="topic:even-orders"))
    desk(box, "large")
    desk(box, "rest")
    desk(box, "even", channel="topic:even-orders")
    desk(box, "even-too", channel="topic:even-orders")
    orders = [OrderPlaced(f"o-{number % 3}", number) for number in range(9)]

    async with box.running():
        await create_tables(box)
        await publish(box, *orders, OrderPlaced("o-0", 100))
        await happenings.until_settled(10 + 5 * 2 + 5)

        assert await seen(box, "large") == ["o-0 100"]
        for name, wanted in [("even", orders[::2]), ("even-too", orders[::2]), ("rest", orders[1::2])]:
            arrived = await seen(box, name)
            assert Counter(arrived) == Counter(f"{one.order_id} {one.number}" for one in wanted)
            for key in ("o-0", "o-1", "o-2"):
                numbers = [int(what.split()[1]) for what in arrived if what.startswith(key)]
                assert numbers == sorted(numbers)
        assert Counter(one.destinations for one in happenings.of(MessageRouted, "orders")) == {
            ("queue:large",): 1,
            ("topic:even-orders",): 5,
            ("queue:rest",): 4,
        }


async def test_what_nothing_matches_is_a_dead_letter_and_goes_on_after_the_rules_are_mended(store_url: str) -> None:
    box, happenings = make_box(store_url)
    router = ContentBasedRouter("orders", source=OrderPlaced).when(EVEN, to="even")
    box.include(router)
    desk(box, "even")
    desk(box, "odd")

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("o-1", 1), OrderPlaced("o-1", 2), OrderPlaced("o-2", 4))
        await happenings.until(MessageDead)
        await wait_until(lambda: seen(box, "even"))
        (letter,) = await box.dead_letters.list()
        assert (letter.consumer, letter.reason, letter.error_type) == (
            "shop/orders",
            "permanent",
            "UnmatchedMessageError",
        )
        assert await seen(box, "even") == ["o-2 4"], "what is behind the dead one in its key waits"

        router.when({"all": []}, to="odd")
        await box.dead_letters.replay(letter.id, by="tests")
        await wait_until(lambda: _all_arrived(box))

        assert await seen(box, "odd") == ["o-1 1"]
        assert await seen(box, "even") == ["o-2 4", "o-1 2"]


async def _all_arrived(box: Pillarbox) -> bool:
    return len(await noted(box)) == 3


async def test_a_condition_that_fails_puts_its_own_message_aside_and_no_other(store_url: str) -> None:
    box, happenings = make_box(store_url)

    def picky(m: Any) -> bool:
        if m.payload.number == 3:
            raise LookupError("three")
        return True

    router = ContentBasedRouter("orders", source=OrderPlaced).when(picky, to="desk")
    box.include(router, ordering=Unordered())
    desk(box, "desk")

    async with box.running():
        await create_tables(box)
        await publish(box, *[OrderPlaced("o-1", number) for number in range(6)])
        await happenings.until_settled(6 + 5)

        (letter,) = await box.dead_letters.list()
        assert (letter.error_type, letter.attempts) == ("ConditionError", 1)
        assert "LookupError: three" in letter.error
        assert sorted(await seen(box, "desk")) == [f"o-1 {number}" for number in (0, 1, 2, 4, 5)]


async def test_a_message_that_comes_again_is_not_routed_again(store_url: str) -> None:
    box, happenings = make_box(store_url)
    box.include(ContentBasedRouter("orders", source="topic:order", default="desk").when(EVEN, to="even"))
    desk(box, "desk")
    same = message("m1", key="o-1")

    async with box.running():
        await create_tables(box)
        for _ in range(2):
            async with box.store.begin() as transaction:
                await transaction.run(box.store.outbox.append([record_of(same)]))
        await happenings.until(DuplicateSuppressed, consumer="orders")
        await wait_until(lambda: noted(box))

        assert await seen(box, "desk") == ["o-1 0"]
        assert len(happenings.of(MessageRouted)) == 1


async def test_a_router_takes_types_that_nobody_has_a_class_for(store_url: str) -> None:
    box, happenings = make_box(store_url)
    box.include(
        ContentBasedRouter("orders", source="topic:order", default="rest").when(
            {"field": "type", "operator": "eq", "value": "order.rated"}, to="ratings"
        )
    )
    producer = Pillarbox("shop", store=box.store)

    async with box.running():
        await create_tables(box)
        await publish(producer, OrderRated("o-1"), OrderPlaced("o-2"))
        await happenings.until(MessageRouted, 2)
        waiting = await wait_until(lambda: _waiting(box, 2))

        assert Counter(waiting) == {"queue:ratings": 1, "queue:rest": 1}


async def _waiting(box: Pillarbox, count: int) -> list[str]:
    async with box.transaction() as tx:
        found = list((await tx.scalars(select(queue.c.channel))).all())
    return found if len(found) == count else []


async def test_every_chosen_recipient_gets_one_copy_of_its_own(store_url: str) -> None:
    box, happenings = make_box(store_url)
    everyone = RecipientList("copies", "billing", "topic:audits", source=OrderPlaced)
    box.include(everyone)

    async def take(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> None:
        await note(tx, f"{ctx.channel} {order.order_id} {ctx.causation_id == ctx.correlation_id} {ctx.message_id}")

    box.on(OrderPlaced, name="billing", channel="billing")(take)
    box.on(OrderPlaced, name="audit", channel="topic:audits")(take)

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("o-1"))
        await happenings.until_settled(3)

        first, second = sorted(await noted(box))
        assert first.split()[:3] == ["queue:billing", "o-1", "True"]
        assert second.split()[:3] == ["topic:audits", "o-1", "True"]
        assert first.split()[3] != second.split()[3]


async def test_what_a_filter_discards_is_told_of(store_url: str) -> None:
    box, happenings = make_box(store_url)
    box.include(MessageFilter("even-only", keep=EVEN, to="even", source=OrderPlaced))
    desk(box, "even")

    async with box.running():
        await create_tables(box)
        await publish(box, *[OrderPlaced("o-1", number) for number in range(4)])
        await happenings.until_settled(4 + 2)

        assert await seen(box, "even") == ["o-1 0", "o-1 2"]
        assert len(happenings.of(MessageFiltered, "even-only")) == 2
        assert await box.dead_letters.count() == 0


async def test_what_nobody_can_read_is_neither_discarded_nor_passed_on(store_url: str) -> None:
    box, happenings = make_box(store_url)
    box.include(
        MessageFilter("charges", keep={"field": "type", "operator": "eq", "value": "payment.charge"}, to="kept")
    )
    box.include(ContentBasedRouter("all", default="rest"))

    async with box.running():
        async with box.store.begin() as transaction:
            found = [
                structs.replace(message(name, destination=f"queue:{name}"), type=UNREADABLE)
                for name in ("charges", "all")
            ]
            await transaction.run(box.store.outbox.append([record_of(one) for one in found]))
        await happenings.until(MessageDead, 2)
        letters = await box.dead_letters.list()

    assert {(one.consumer, one.message.body) for one in letters} == {
        ("shop/charges", found[0].body),
        ("shop/all", found[1].body),
    }


async def test_a_tap_on_a_topic_changes_nothing_for_its_subscribers(store_url: str) -> None:
    box, happenings = make_box(store_url)
    box.include(WireTap("tap", source=OrderPlaced, to="audit"))
    marks: list[str | None] = []

    @box.on(OrderPlaced, name="pack")
    async def pack(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> None:
        await note(tx, f"pack {order.order_id} {order.number}")

    @box.on(OrderPlaced, name="audit", channel="audit")
    async def audit(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> None:
        marks.append(ctx.headers.get("tappedby"))
        await note(tx, f"audit {order.order_id} {order.number}")

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("o-1", 1), OrderPlaced("o-1", 2))
        await happenings.until_settled(2 * 3)

        assert await seen(box, "pack") == await seen(box, "audit") == ["o-1 1", "o-1 2"]
        assert marks == ["shop/tap"] * 2


async def test_a_tap_whose_channel_is_not_ready_does_not_delay_the_line(store_url: str) -> None:
    box, happenings = make_box(store_url)
    box.include(WireTap("tap", source=ChargePayment, to="topic:nobody-yet", then="payments.tapped"))
    desk(box, "charge", ChargePayment, channel="payments.tapped")

    async with box.running():
        await create_tables(box)
        for number in range(3):
            await publish(box, ChargePayment(f"o-{number}"))
        await happenings.until_settled(3 * 2)
        await happenings.until(DestinationNotReady)

        assert len(await seen(box, "charge")) == 3
        state = await box.store.run(box.store.outbox.state())
        assert state.pending == 3, "the copies wait until somebody listens"


async def test_a_circle_of_routers_ends_in_the_dead_letters(store_url: str) -> None:
    box, happenings = make_box(store_url)
    box.include(ContentBasedRouter("there", source="queue:a", default="b"))
    box.include(ContentBasedRouter("back", source="queue:b", default="a"))

    async with box.running():
        async with box.store.begin() as transaction:
            await transaction.run(box.store.outbox.append([record_of(message("m1", destination="queue:a"))]))
        await happenings.until(MessageDead)

        (letter,) = await box.dead_letters.list()
        assert (letter.consumer, letter.error_type) == ("shop/there", "RoutingLoopError")
        assert [one.destinations for one in happenings.of(MessageRouted)] == [("queue:b",), ("queue:a",)]


async def test_start_up_lists_every_problem_of_every_route() -> None:
    box, _ = make_box("memory://")
    box.include(ContentBasedRouter("orders", source=OrderPlaced).when(EVEN, to="a").when(EVEN, to="b"))
    box.include(WireTap("tap", source=ChargePayment, to="audit"))
    box.include(ContentBasedRouter("circle", default="circle"))
    box.on(ChargePayment, name="charge")(_charge)

    with pytest.raises(InvalidSetupError) as refused:
        box.consumers()

    kinds = [type(problem) for problem in refused.value.problems]
    assert kinds == [UnreachableRuleError, ConfigurationError, ConfigurationError, DuplicateConsumerError]
    assert "WireTap 'tap'" in str(refused.value)


async def _charge(charge: ChargePayment, tx: AsyncConnection) -> None: ...


def test_a_route_is_included_once_and_handlers_take_no_options() -> None:
    box, _ = make_box("memory://")
    router = ContentBasedRouter("orders", default="rest")
    box.include(router)
    box.include(router)

    assert box.routes == (router,)
    with pytest.raises(ConfigurationError, match="concurrency"):
        box.include(Handlers(), concurrency=2)  # type: ignore[call-overload]


def test_a_channel_of_a_consumer_must_be_one() -> None:
    box, _ = make_box("memory://")
    box.on(OrderPlaced, name="desk", channel="Express!")(_charge)  # type: ignore[arg-type]

    with pytest.raises(InvalidSetupError, match="Express!"):
        box.consumers()


def test_a_box_explains_with_the_classes_that_it_knows() -> None:
    box, _ = make_box("memory://")
    box.include(ContentBasedRouter("orders", source="topic:order").when(lambda m: m.payload.number > 5, to="large"))
    box.include(ContentBasedRouter("payments", source=ChargePayment, default="bank"))
    desk(box, "large")

    (order,) = box.explain(structs.replace(message(), body=b'{"order_id": "o-1", "number": 6}'))
    (charge,) = box.explain(ChargePayment("o-1"))

    assert (order.route, order.destinations) == ("orders", ("queue:large",))
    assert (charge.route, charge.destinations) == ("payments", ("queue:bank",))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"headers": {"routedby": "shop/other shop/orders"}}, "shop/orders"),
        ({"type": UNREADABLE}, UNREADABLE),
    ],
    ids=["has passed it", "nobody can read it"],
)
def test_a_message_that_its_route_would_not_pass_on_is_explained_as_a_dead_letter(
    change: dict[str, Any], reason: str
) -> None:
    box, _ = make_box("memory://")
    box.include(ContentBasedRouter("orders", source="topic:order", default="rest"))

    (found,) = box.explain(structs.replace(message(), **change))

    assert (found.outcome, found.destinations) == ("dead", ())
    assert reason in str(found.reason)


async def test_a_harness_runs_the_routes_of_a_box_too() -> None:
    box = Pillarbox("shop", store="memory://")
    box.include(ContentBasedRouter("orders", source=OrderPlaced, default="rest").when(EVEN, to="even"))
    desk(box, "even")
    desk(box, "rest")

    async with Harness(box, tables=tables) as harness:
        await harness.publish(OrderPlaced("o-1", 1))
        await harness.publish(OrderPlaced("o-1", 2))
        await harness.until_quiet()
        handled = [(one.consumer, one.payload) for one in harness.handled]
        assert (await seen(harness.box, "rest"), await seen(harness.box, "even")) == (["o-1 1"], ["o-1 2"])

    assert handled.count(("shop/orders", OrderPlaced("o-1", 1))) == 1
    assert handled.count(("shop/rest", OrderPlaced("o-1", 1))) == 1
