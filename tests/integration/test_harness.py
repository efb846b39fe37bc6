"""The harness: a box's handlers on SQLite in memory and virtual time, whatever the box names."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, Handlers, Pillarbox, RelaySettings, Retry, Saga, SagaContext, Settings
from pillarbox.errors import ConfigurationError, InvalidSetupError, PermanentError
from pillarbox.observe import MessageHandled
from pillarbox.testing import Handled, Harness
from tests.integration.boxes import (
    ChargePayment,
    Happenings,
    OrderPlaced,
    StockReserved,
    note,
    note_sync,
    noted,
    tables,
)


@dataclass
class Payments:
    """Something that a box provides."""

    name: str


@dataclass
class Fulfilment:
    """The state of a saga."""

    order_id: str


def _box() -> Pillarbox:
    """A box in places that cannot be reached."""
    return Pillarbox("shop", store="postgresql+psycopg://nobody:nothing@127.0.0.1:1/none", broker="memory://")


async def test_it_runs_the_handlers_of_a_box_whose_places_are_out_of_reach() -> None:
    box = _box()

    @box.on(OrderPlaced, name="reserve")
    async def reserve(order: OrderPlaced, tx: AsyncConnection) -> StockReserved:
        await note(tx, f"reserved {order.order_id}")
        return StockReserved(order.order_id)

    @box.on(StockReserved, name="charge")
    def charge(stock: StockReserved, tx: Connection) -> ChargePayment:
        note_sync(tx, f"charging {stock.order_id}")
        return ChargePayment(stock.order_id)

    async with Harness(box, tables=tables) as harness:
        await harness.publish(OrderPlaced("o-1"))
        await harness.until_quiet()

        assert harness.published(StockReserved) == [StockReserved("o-1")]
        assert harness.published(ChargePayment) == [ChargePayment("o-1")]
        assert harness.handled == [
            Handled(consumer="shop/reserve", payload=OrderPlaced("o-1"), attempts=1),
            Handled(consumer="shop/charge", payload=StockReserved("o-1"), attempts=1),
        ]
        assert await noted(harness.box) == ["reserved o-1", "charging o-1"]
        assert harness.dead_letters == ()


async def test_retries_with_backoff_finish_at_once() -> None:
    box = _box()
    hours = Retry(attempts=6, immediate=0, first=timedelta(hours=10), longest=timedelta(days=3))
    attempts: list[int] = []

    @box.on(OrderPlaced, name="handle", retry=hours)
    async def handle(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise ConnectionError("never")

    started = time.monotonic()
    async with Harness(box) as harness:
        began = harness.clock.now()
        await harness.publish(OrderPlaced("o-1"))
        await harness.until_quiet()

        assert attempts == [1, 2, 3, 4, 5, 6]
        (letter,) = harness.dead_letters
        assert (letter.reason, letter.attempts) == ("exhausted", 6)
        assert letter.last_failed_at - letter.first_failed_at > timedelta(hours=1)
        assert harness.clock.now() - began > timedelta(hours=1)
    assert time.monotonic() - started < 20


async def test_time_moves_only_as_far_as_it_is_told() -> None:
    box = _box()

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None: ...

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("later"), delay=timedelta(days=2))
        await harness.publish(OrderPlaced("now"))
        await harness.advance(timedelta(days=1))
        assert harness.published(OrderPlaced) == [OrderPlaced("now")]

        await harness.advance(timedelta(days=1))
        assert [one.payload for one in harness.handled] == [OrderPlaced("now"), OrderPlaced("later")]


async def test_what_is_rolled_back_was_not_published() -> None:
    box = _box()

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection, ctx: Context) -> None:
        ctx.publish(StockReserved(order.order_id))
        await tx.execute(text("SELECT 1"))
        raise PermanentError("no")

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("o-1"))
        with suppress(ZeroDivisionError):
            async with harness.transaction() as tx:
                await harness.box.publish(OrderPlaced("o-2"), tx=tx)
                raise ZeroDivisionError
        await harness.until_quiet()

        assert harness.published(StockReserved) == []
        assert harness.published(OrderPlaced) == [OrderPlaced("o-1")]
        assert [letter.error for letter in harness.dead_letters] == ["no"]


async def test_a_dead_letter_can_be_replayed() -> None:
    box = _box()
    broken = [True]

    @box.on(OrderPlaced, name="handle", retry=Retry(attempts=1))
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        if broken[0]:
            raise ValueError("broken")

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("o-1", 1))
        await harness.publish(OrderPlaced("o-1", 2))
        await harness.until_quiet()
        assert harness.handled == []
        broken[0] = False
        await harness.box.dead_letters.replay(harness.dead_letters[0].id, by="me")
        await harness.until_quiet()

        assert [one.payload for one in harness.handled] == [OrderPlaced("o-1", 1), OrderPlaced("o-1", 2)]
        assert harness.dead_letters == ()


async def test_sagas_come_to_their_ends_at_once_with_their_calls_retries_and_timeouts() -> None:
    box = _box()
    fulfilment = Saga("fulfilment", state=Fulfilment)
    seen: list[str] = []

    @fulfilment.step(retry=Retry(attempts=3, immediate=0, first=timedelta(hours=1)))
    async def charge(state: Fulfilment, ctx: SagaContext) -> None:
        await asyncio.to_thread(time.sleep, 0.05)  # under way, while nothing else is pending
        seen.append(f"charge {ctx.attempt}")
        if ctx.attempt < 3:
            raise ConnectionError("the gateway is away")

    @charge.compensate
    async def refund(state: Fulfilment, ctx: SagaContext) -> None:
        seen.append("refund")

    @fulfilment.request(replies=(StockReserved,), timeout=timedelta(minutes=5))
    def reserve(state: Fulfilment) -> ChargePayment:  # a command that nobody handles
        return ChargePayment(state.order_id)

    box.include(fulfilment)

    async with Harness(box, tables=tables) as harness:
        async with harness.transaction() as tx:
            await harness.box.sagas.start(fulfilment, Fulfilment("o-1"), saga_id="o-1", tx=tx)
        await harness.until_quiet()

        (saga,) = await harness.box.sagas.list()
        assert seen == ["charge 1", "charge 2", "charge 3", "refund"]
        assert saga.status == "compensated"
        assert harness.published(ChargePayment) == [ChargePayment("o-1")]


async def test_overrides_of_the_box_are_respected_before_and_during() -> None:
    box = _box()
    box.provide(Payments, lambda: Payments("real"))
    box.override(Payments, Payments("fake"))
    seen: list[str] = []

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, payments: Payments) -> None:
        seen.append(payments.name)

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("a"))
        await harness.until_quiet()
        box.override(Payments, Payments("another fake"))
        await harness.publish(OrderPlaced("a"))
        await harness.until_quiet()

    assert seen == ["fake", "another fake"]


async def test_observers_of_the_box_are_told() -> None:
    box, happenings = _box(), Happenings()
    box.observe(happenings)

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced) -> None: ...

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("a"))
        await harness.until_quiet()

    assert len(happenings.of(MessageHandled)) == 1


async def test_what_never_ends_is_named() -> None:
    box = _box()

    @box.on(OrderPlaced, name="ping")
    async def ping(order: OrderPlaced, tx: AsyncConnection) -> OrderPlaced:
        return order

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("a"))
        with pytest.raises(AssertionError, match=r"not quiet in time: .*topic:order"):
            await harness.until_quiet(patience=timedelta(milliseconds=300))


async def test_what_is_due_beyond_the_horizon_is_named() -> None:
    box = _box()

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None: ...

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("a"), delay=timedelta(days=2))
        with pytest.raises(AssertionError, match=r"not quiet within 1 day.*delayed"):
            await harness.until_quiet(horizon=timedelta(days=1))


async def test_commands_are_sent() -> None:
    box = _box()

    @box.on(ChargePayment, name="charge")
    async def charge(command: ChargePayment, tx: AsyncConnection) -> None: ...

    async with Harness(box) as harness:
        await harness.send(ChargePayment("a"), headers={"mine": "x"})
        await harness.until_quiet()

        assert [one.consumer for one in harness.handled] == ["shop/charge"]


async def test_wrong_declarations_are_said_at_the_start() -> None:
    box = _box()

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, payments: Payments) -> None: ...

    with pytest.raises(InvalidSetupError, match="Payments"):
        async with Harness(box):
            pytest.fail("it started")


async def test_an_error_of_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Harness(_box()):
            raise ZeroDivisionError


async def test_julianday_of_other_times_is_what_it_was() -> None:
    async with Harness(_box()) as harness, harness.transaction() as tx:
        row = (await tx.execute(text("SELECT julianday('2000-01-01 12:00'), julianday('nonsense')"))).one()

    assert tuple(row) == (2451545.0, None)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(relay=RelaySettings(kind="sequence", keep=timedelta(days=1))),
        Settings(relay=RelaySettings(kind="log")),
        Settings(relay=RelaySettings(kind="log"), outbox="log"),
    ],
    ids=["sequence", "log", "log alone"],
)
async def test_it_runs_boxes_whatever_relay_and_outbox_they_name(settings: Settings) -> None:
    box = Pillarbox("shop", store="postgresql+psycopg://127.0.0.1:1/none", broker="memory://", settings=settings)

    @box.on(OrderPlaced, name="reserve")
    async def reserve(order: OrderPlaced, tx: AsyncConnection) -> StockReserved:
        return StockReserved(order.order_id)

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("o-1"))
        await harness.until_quiet()

        assert harness.published(StockReserved) == [StockReserved("o-1")]


async def test_it_is_entered_once_since_its_database_goes_with_it() -> None:
    harness = Harness(_box())
    async with harness:
        pass

    with pytest.raises(RuntimeError, match="entered once"):
        async with harness:
            pytest.fail("what the first block published would stand in for what the second one does")


async def test_time_does_not_go_back() -> None:
    async with Harness(_box()) as harness:
        with pytest.raises(ValueError, match="time does not go back"):
            await harness.advance(timedelta(seconds=-1))


async def test_an_override_ends_with_its_block() -> None:
    box = _box()
    box.provide(Payments, lambda: Payments("real"))
    seen: list[str] = []

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, payments: Payments) -> None:
        seen.append(payments.name)

    with box.override(Payments, Payments("fake")):
        async with Harness(box) as harness:
            await harness.publish(OrderPlaced("a"))
            await harness.until_quiet()
    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("a"))
        await harness.until_quiet()

    assert seen == ["fake", "real"]


async def test_nothing_is_declared_on_a_box_while_it_runs_in_a_harness() -> None:
    box, part = _box(), Handlers()
    box.include(part)

    async with Harness(box):
        for declaring in (box, part):
            with pytest.raises(ConfigurationError, match="the box is running"):

                @declaring.on(OrderPlaced, name="late")
                async def late(order: OrderPlaced) -> None: ...
