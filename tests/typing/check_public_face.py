"""How a program that uses the public names types; checked, never run.

An ``ignore`` here is an error that the checkers must find: one that they no longer find is reported as needless.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_type

import msgspec
import pydantic
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from pillarbox import (
    Causal,
    Cause,
    ContentBasedRouter,
    Context,
    DeadLetterFilter,
    Handlers,
    MessageFilter,
    Pillarbox,
    RecipientList,
    Retry,
    SingleConsumer,
    Unordered,
    WireTap,
    command,
    event,
)
from pillarbox.deadletter import DeadLetter
from pillarbox.flow import Flow, FlowProblem, Graph, StuckFlow, Trace
from pillarbox.routing import Explanation
from pillarbox.testing import Handled, Harness


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    total_cents: int
    priority: str = "STANDARD"


@event("order.shipped", key="order_id")
class OrderShipped(msgspec.Struct, frozen=True):
    order_id: str


@event("stock.rejected", key="order_id")
class StockRejected(pydantic.BaseModel):
    order_id: str
    reason: str


@command("payment.charge", queue="payments", key="order_id")
@dataclass(frozen=True)
class ChargePayment:
    order_id: str


class Payments: ...


box = Pillarbox("shop", store="memory://")
handlers = Handlers(retry=Retry(attempts=3), ordering=Unordered())


def declaring_keeps_the_class_as_it_is() -> None:
    assert_type(OrderPlaced("o-1", 4200), OrderPlaced)
    assert_type(OrderShipped("o-1").order_id, str)
    assert_type(StockRejected(order_id="o-1", reason="none left").reason, str)
    OrderPlaced("o-1")  # type: ignore[call-arg]


@box.on(OrderPlaced, name="reserve", retry=Retry(attempts=5, first=timedelta(seconds=1)))
async def reserve(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> OrderShipped | StockRejected:
    assert_type(ctx.attempt, int)
    assert_type(ctx.idempotency_key("charge"), str)
    await ctx.publish(OrderShipped(order.order_id))
    ctx.send(ChargePayment(order.order_id))
    return OrderShipped(order.order_id)


@box.on(OrderPlaced, OrderShipped, name="follow", ordering=Causal(wait=timedelta(minutes=1), when_missing="run"))
async def follow(message: OrderPlaced | OrderShipped, tx: AsyncConnection, ctx: Context) -> None:
    noted = ctx.publish(OrderShipped("o-1"), after=[ctx, Cause("m1", "order.placed", "topic:order")])
    assert_type(await ctx.publish(OrderShipped("o-1"), after=[noted]), Cause)
    assert_type(await box.publish(OrderShipped("o-1"), tx=tx, after=[noted.cause]), Cause)
    ctx.publish(OrderShipped("o-1"), after=["m1"])  # type: ignore[list-item]


@box.on(OrderPlaced, name="alone", ordering=SingleConsumer(), when_dead="stop")
async def alone(order: OrderPlaced, tx: AsyncConnection) -> None: ...


@handlers.on(OrderPlaced, name="plain", when_dead="skip", idempotency="natural", concurrency=2)
def plain(order: OrderPlaced, tx: Connection) -> None: ...


@handlers.on(OrderPlaced, OrderShipped)
async def both(message: OrderPlaced | OrderShipped, session: AsyncSession) -> None: ...


@handlers.on(OrderPlaced, OrderShipped, StockRejected, ChargePayment)
async def four(message: OrderPlaced | OrderShipped | StockRejected | ChargePayment) -> None: ...


@handlers.on(OrderPlaced, batch=100)
async def in_batches(orders: list[OrderPlaced], tx: AsyncConnection, contexts: list[Context]) -> None: ...


@handlers.on(OrderPlaced, batch=100)
async def any_sequence(orders: Sequence[OrderPlaced], tx: AsyncConnection) -> None: ...


@handlers.on(OrderPlaced, batch=100)  # type: ignore[arg-type]
async def not_a_list(order: OrderPlaced, tx: AsyncConnection) -> None: ...


@handlers.on(OrderPlaced)
async def takes_more(message: OrderPlaced | ChargePayment) -> None: ...


@handlers.on(OrderPlaced)  # type: ignore[arg-type]
async def wrong_payload(order: OrderShipped) -> None: ...


@handlers.on(OrderPlaced, OrderShipped)  # type: ignore[arg-type]
async def only_one_of_two(order: OrderPlaced) -> None: ...


@handlers.on(OrderPlaced)  # type: ignore[arg-type]
def no_payload() -> None: ...


def options_are_checked() -> None:
    handlers.on(OrderPlaced, retry=5)  # type: ignore[call-overload]
    handlers.on(OrderPlaced, when_dead="burn")  # type: ignore[call-overload]
    handlers.on(OrderPlaced, nonsense=True)  # type: ignore[call-overload]


async def a_declared_handler_can_be_called_as_before(tx: AsyncConnection, sync_tx: Connection, ctx: Context) -> None:
    order = OrderPlaced("o-1", 4200)
    assert_type(await reserve(order, tx, ctx), OrderShipped | StockRejected)
    assert_type(await reserve(order, tx=tx, ctx=ctx), OrderShipped | StockRejected)
    plain(order, sync_tx)
    await reserve(order, sync_tx, ctx)  # type: ignore[arg-type]


def including() -> None:
    box.include(handlers)
    box.include("stock.handlers")  # type: ignore[call-overload]


def routing() -> None:
    router = ContentBasedRouter("orders", source=OrderPlaced, default="unmatched")
    router.when(lambda m: m.payload.priority == "EXPRESS", to="express").when(
        {"field": "body.total_cents", "operator": "gt", "value": 100_000}, to="queue:large", name="large"
    )
    box.include(router, when_dead="skip", concurrency=2)
    box.include(RecipientList("copies", "billing", "audit", source="topic:order", chosen_by=lambda m: m.body["to"]))
    box.include(MessageFilter("standard", keep=lambda m: m.headers.get("tier") == "gold", to="gold"))
    box.include(WireTap("tap", source=OrderPlaced, to="audit"))
    box.include(router, timeout=1)  # type: ignore[call-overload]
    router.when("body.total_cents > 100", to="large")  # type: ignore[arg-type]
    assert_type(router.explain(OrderPlaced("o-1", 4200)), Explanation)


@box.on(OrderPlaced, name="express-desk", channel="express")
async def express(order: OrderPlaced, tx: AsyncConnection) -> None: ...


async def publishing_takes_a_transaction_of_its_colour(
    connection: AsyncConnection, session: AsyncSession, sync_connection: Connection, sync_session: Session
) -> None:
    order = OrderPlaced("o-1", 4200)
    await box.publish(order, tx=connection)
    await box.publish(order, tx=session, key="k", delay=timedelta(minutes=5), headers={"tenant": "t-1"})
    await box.send(ChargePayment("o-1"), tx=connection)
    await box.publish_all([order, ChargePayment("o-1")], tx=session)
    box.publish_sync(order, tx=sync_connection)
    box.send_sync(ChargePayment("o-1"), tx=sync_session)
    await box.publish(order, tx=sync_connection)  # type: ignore[arg-type]
    box.publish_sync(order, tx=session)  # type: ignore[arg-type]
    await box.publish(order)  # type: ignore[call-arg]
    await box.publish(order, tx=connection, delay=5)  # type: ignore[arg-type]


async def transactions_of_the_box() -> None:
    async with box.transaction() as tx:
        assert_type(tx, AsyncConnection)
    async with box.session() as session:
        assert_type(session, AsyncSession)
    with box.transaction_sync() as sync_tx:
        assert_type(sync_tx, Connection)
    async with box.running(relay=True) as running:
        assert_type(running, Pillarbox)


def providing(make: Callable[[], Payments]) -> None:
    box.provide(Payments, make)
    box.provide(Payments, make, scope="message")
    box.override(Payments, Payments())
    box.provide(Payments, make, scope="forever")  # type: ignore[arg-type]


async def dead_letters() -> None:
    letters = await box.dead_letters.list(DeadLetterFilter(consumer="shop/reserve"))
    assert_type(letters, tuple[DeadLetter, ...])
    assert_type(await box.dead_letters.replay(letters[0].id, by="me"), DeadLetter)


async def testing_a_box() -> None:
    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("o-1", 4200))
        await harness.until_quiet()
        assert_type(harness.published(OrderShipped), list[OrderShipped])
        assert_type(harness.handled, list[Handled])
        assert_type(harness.dead_letters, tuple[DeadLetter, ...])


async def flows() -> None:
    declared = box.flow(
        "fulfilment", starts=OrderPlaced, ends=(OrderShipped, StockRejected), within=timedelta(minutes=10)
    )
    box.flow(
        "hurried",
        starts=[OrderPlaced],
        ends=OrderShipped,
        within=timedelta(minutes=10),
        react_within={OrderPlaced: timedelta(seconds=5)},
        expects={OrderPlaced: (OrderShipped, StockRejected)},
        rejections=StockRejected,
    )
    box.flow("endless", starts=OrderPlaced, ends=OrderShipped)  # type: ignore[call-arg]
    box.flow("late", starts=OrderPlaced, ends=OrderShipped, within=600)  # type: ignore[arg-type]
    box.flow("unnamed", starts="order.placed", ends=OrderShipped, within=timedelta(1))  # type: ignore[arg-type]
    assert_type(declared, Flow)
    assert_type(box.flows.graph(), Graph)
    assert_type(box.flows.graph().mermaid(), str)
    box.flows.include(box.flows.graph())
    assert_type(await box.flows.trace("0193"), Trace)
    assert_type(await box.flows.stuck(), tuple[StuckFlow, ...])
    assert_type(box.flows.check(), tuple[FlowProblem, ...])


@box.on(OrderPlaced, name="by-context", publishes=[OrderShipped, ChargePayment])
async def by_context(order: OrderPlaced, ctx: Context) -> None: ...
