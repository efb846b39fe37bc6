"""A dependency that is down: what needs it pauses, nothing else does, and no attempts are counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from time import monotonic

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import CircuitBreaker, Context, Pillarbox, Retry, permanent
from pillarbox.app.controlling import control_of
from pillarbox.errors import DependencyDownError
from pillarbox.observe import AttemptFailed, BreakerClosed, BreakerOpened, MessageDead, MessageHandled
from pillarbox.retry import CircuitState
from pillarbox.testing import Harness
from tests.effort import of
from tests.integration.boxes import (
    Happenings,
    OrderPlaced,
    StockReserved,
    create_tables,
    make_box,
    note,
    noted,
    publish,
)
from tests.waiting import wait_until

QUICK = CircuitBreaker(
    failures=3, open_for=timedelta(milliseconds=150), longest=timedelta(milliseconds=400), within=timedelta(seconds=30)
)
SOON = Retry(attempts=4, immediate=1, first=timedelta(milliseconds=20), factor=1)
OUTAGE_S = of(60, 0)
"""For so long the dependency is down at least."""
BACK_WITHIN_S = of(60, 10)
"""And so soon all that waited is handled, when it is back."""
SHAPES = ["outside", "transaction", "sync", "batch"]


class Gateway:
    """What handlers call; it counts its callers."""

    def __init__(self) -> None:
        self.is_down = True
        self.calls = Counter[str]()
        self.served: list[str] = []
        self.at_once = self.most_at_once = 0

    def call(self, who: str) -> None:
        self.calls[who] += 1
        if self.is_down:
            raise ConnectionError("nobody answers")
        self.served.append(who)


def declare(box: Pillarbox, gateway: Gateway, shape: str) -> None:
    """Declare a handler of that shape that needs the gateway."""
    match shape:
        case "outside":

            @box.on(OrderPlaced, name="charge", needs="gateway", retry=SOON)
            async def outside(order: OrderPlaced) -> None:
                gateway.call(f"{order.order_id}{order.number}")

        case "transaction":

            @box.on(OrderPlaced, name="charge", needs="gateway", retry=SOON)
            async def transaction(order: OrderPlaced, tx: AsyncConnection) -> None:
                await note(tx, f"{order.order_id}{order.number}")
                gateway.call(f"{order.order_id}{order.number}")

        case "sync":

            @box.on(OrderPlaced, name="charge", needs="gateway", retry=SOON)
            def sync(order: OrderPlaced) -> None:
                gateway.call(f"{order.order_id}{order.number}")

        case _:

            @box.on(OrderPlaced, name="charge", needs="gateway", retry=SOON, batch=5)
            async def batch(orders: list[OrderPlaced], tx: AsyncConnection) -> None:
                for order in orders:
                    gateway.call(f"{order.order_id}{order.number}")
                    await note(tx, f"{order.order_id}{order.number}")


@pytest.mark.parametrize(
    ("store_url", "shape"),
    [
        *(("memory", shape) for shape in SHAPES),
        ("sqlite", "outside"),
        pytest.param("postgresql+psycopg", "transaction", marks=pytest.mark.server),
        pytest.param("postgresql+asyncpg", "outside", marks=pytest.mark.server),
        pytest.param("mariadb+asyncmy", "transaction", marks=pytest.mark.server),
    ],
    indirect=["store_url"],
)
async def test_while_a_dependency_is_down_nothing_dies_and_all_is_done_in_order_when_it_is_back(
    store_url: str, shape: str
) -> None:
    box, happenings = make_box(store_url)
    gateway = Gateway()
    box.dependency("gateway", QUICK)
    declare(box, gateway, shape)
    others: list[str] = []

    @box.on(StockReserved, name="other")
    async def other(reserved: StockReserved) -> None:
        others.append(reserved.order_id)

    back_at = monotonic() + OUTAGE_S
    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(key, number) for number in range(3) for key in "abcdef"))
        await happenings.until(BreakerOpened, 2)
        await wait_until(lambda: monotonic() >= back_at, timedelta(seconds=90))
        calls = gateway.calls.total()
        await publish(box, *(StockReserved(str(number)) for number in range(20)))
        await happenings.until(MessageHandled, 20, consumer="other")
        assert len(others) == 20
        await happenings.until(BreakerOpened, 3)
        assert gateway.calls.total() - calls <= 4, "one call for each probe, and a few that were under way"
        assert (await box.health()).vitals.down[0].needed_by == ("shop/charge",)

        gateway.is_down = False
        returned_at = monotonic()
        await happenings.until(MessageHandled, 18, consumer="charge")
        assert monotonic() - returned_at < BACK_WITHIN_S
        (closed,) = happenings.of(BreakerClosed)
        assert closed.away_for > timedelta(0)
        assert (await box.health()).vitals.down == ()
        # a transaction that the database breaks off is begun again, and calls again
        done = await noted(box) if shape in {"transaction", "batch"} else gateway.served

    assert not happenings.of(MessageDead)
    for key in "abcdef":
        assert [one for one in done if one[0] == key] == [f"{key}{number}" for number in range(3)]


@pytest.mark.parametrize(
    "store_url",
    [
        "sqlite",
        pytest.param("postgresql+psycopg", marks=pytest.mark.server),
        pytest.param("mariadb+asyncmy", marks=pytest.mark.server),
    ],
    indirect=True,
)
async def test_two_processes_share_a_breaker_and_probe_one_at_a_time(store_url: str) -> None:
    gateway, boxes = Gateway(), list[tuple[Pillarbox, Happenings]]()
    for _ in range(2):
        box, happenings = make_box(store_url)
        box.dependency("gateway", QUICK)

        @box.on(OrderPlaced, name="charge", needs="gateway", retry=SOON)
        async def charge(order: OrderPlaced) -> None:
            gateway.at_once += 1
            gateway.most_at_once = max(gateway.most_at_once, gateway.at_once)
            await asyncio.sleep(0.005)
            gateway.at_once -= 1
            gateway.call(order.order_id)

        boxes.append((box, happenings))

    async with AsyncExitStack() as stack:
        for box, _ in boxes:
            await stack.enter_async_context(box.running())
        first, _ = boxes[0]
        await publish(first, *(OrderPlaced(str(number)) for number in range(40)))
        await _until_opened(boxes, 2)
        gateway.most_at_once = 0
        calls, openings = gateway.calls.total() + gateway.at_once, _openings(boxes)  # those under way are none of them
        await _until_opened(boxes, openings + 2)
        assert gateway.most_at_once <= 1
        # each probe that fails opens it again; a process that has not looked yet calls until its own streak is full
        few = _openings(boxes) - openings + QUICK.failures
        assert gateway.calls.total() - calls <= 2 * few + 2

        gateway.is_down = False
        await wait_until(lambda: len(gateway.served) >= 40, timedelta(seconds=20))
        assert sum(len(happenings.of(BreakerClosed)) for _, happenings in boxes) == 1
        assert not any(happenings.of(MessageDead) for _, happenings in boxes)


def _openings(boxes: list[tuple[Pillarbox, Happenings]]) -> int:
    return sum(len(happenings.of(BreakerOpened)) for _, happenings in boxes)


async def _until_opened(boxes: list[tuple[Pillarbox, Happenings]], count: int) -> None:
    """Wait until the breaker has opened so often, whoever it was that found out."""
    await wait_until(lambda: _openings(boxes) >= count, timedelta(seconds=20))


async def test_a_minute_of_outage_costs_few_calls_and_no_attempts() -> None:
    box = Pillarbox("shop", store="memory://")
    gateway, attempts = Gateway(), list[int]()

    @box.on(OrderPlaced, name="charge", needs="gateway")
    async def charge(order: OrderPlaced, ctx: Context) -> None:
        gateway.call(order.order_id)
        attempts.append(ctx.attempt)

    async with Harness(box) as harness:
        for number in range(30):
            await harness.publish(OrderPlaced(str(number)))
        await harness.advance(timedelta(seconds=60), patience=timedelta(seconds=60))
        assert 5 <= gateway.calls.total() <= 5 + 4
        gateway.is_down = False
        await harness.until_quiet()

        assert harness.dead_letters == ()
        assert len(harness.handled) == 30
        assert max(attempts) <= 5


async def test_retries_in_place_have_a_budget() -> None:
    box = Pillarbox("shop", store="memory://")
    box.dependency("gateway", CircuitBreaker(retries=0.1))
    failed_at, served, in_place = dict[str, float](), list[str](), 0

    @box.on(OrderPlaced, name="charge", needs="gateway", concurrency=1)
    async def charge(order: OrderPlaced) -> None:
        nonlocal in_place
        now = harness.clock.monotonic()
        if int(order.order_id) % 4 == 0 and order.order_id not in failed_at:
            failed_at[order.order_id] = now
            raise TimeoutError
        in_place += failed_at.get(order.order_id) == now
        served.append(order.order_id)

    async with Harness(box) as harness:
        for number in range(200):
            await harness.publish(OrderPlaced(str(number)))
        await harness.until_quiet()

        assert harness.dead_letters == ()
    assert sorted(served) == sorted(str(number) for number in range(200))
    assert len(failed_at) == 50
    assert 10 <= in_place <= 10 + 0.1 * 200


async def test_a_message_that_fails_alone_dies_while_others_succeed() -> None:
    box = Pillarbox("shop", store="memory://")
    served: list[str] = []

    @box.on(OrderPlaced, name="charge", needs="gateway", retry=Retry(attempts=3, first=timedelta(seconds=1)))
    async def charge(order: OrderPlaced) -> None:
        if order.order_id == "poison":
            raise TimeoutError
        served.append(order.order_id)

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("poison"))
        for number in range(8):
            await harness.publish(OrderPlaced(str(number)))
            await harness.advance(timedelta(seconds=20))
        await harness.until_quiet()

        assert [letter.message.key for letter in harness.dead_letters] == ["poison"]
        assert len(served) == 8


async def test_what_says_that_it_is_down_is_left_alone_for_as_long_as_it_says() -> None:
    box = Pillarbox("shop", store="memory://")
    times, happenings = list[float](), Happenings()
    box.observe(happenings)

    @box.on(OrderPlaced, name="charge", needs="gateway")
    async def charge(order: OrderPlaced, ctx: Context) -> None:
        times.append(harness.clock.monotonic())
        if len(times) == 1:
            raise DependencyDownError("closed at night", retry_after=timedelta(minutes=30))
        assert ctx.attempt == 1

    async with Harness(box) as harness:
        await harness.publish(OrderPlaced("a"))
        await harness.publish(OrderPlaced("b"))
        await harness.until_quiet()

    assert len(times) == 3
    assert times[1] - times[0] >= 1800
    assert happenings.of(BreakerOpened)[0].dependency == "shop/gateway"
    assert len(happenings.of(AttemptFailed)) == 1


async def test_a_permanent_failure_does_not_speak_against_the_dependency() -> None:
    box = Pillarbox("shop", store="memory://")
    happenings = Happenings()
    box.observe(happenings)

    class CardDeclinedError(ConnectionError):
        """The gateway answers, but not as one would like."""

    @box.on(OrderPlaced, name="charge", needs="gateway", failures=[permanent(CardDeclinedError)])
    async def charge(order: OrderPlaced) -> None:
        raise CardDeclinedError

    async with Harness(box) as harness:
        for number in range(8):
            await harness.publish(OrderPlaced(str(number)))
        await harness.until_quiet()

        assert [(letter.reason, letter.attempts) for letter in harness.dead_letters] == [("permanent", 1)] * 8
    assert not happenings.of(BreakerOpened)


async def test_who_is_paused_is_told(store_url: str) -> None:
    box, happenings = make_box(store_url)
    box.dependency("gateway", replace(QUICK, open_for=timedelta(minutes=1), longest=timedelta(minutes=1)))
    declare(box, Gateway(), "outside")

    async with box.running():
        await publish(box, *(OrderPlaced(str(number)) for number in range(5)))
        await happenings.until(BreakerOpened)

        (consumer,) = await control_of(box.store).consumers.list()
        assert (consumer.identity, consumer.paused_by) == ("shop/charge", "shop/gateway")
        health = await box.health()
        assert health.vitals.down[0].circuit.state is CircuitState.OPEN
        (problem,) = [one for one in health.problems if "shop/gateway" in one.what]
        assert "(ConnectionError), which pauses shop/charge" in problem.what
