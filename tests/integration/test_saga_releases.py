"""Two releases of one service side by side: what one of them does not know yet is the other's to go on with."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import json
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga, SagaContext, command, event
from pillarbox.observe import SagaUnreadable
from pillarbox.saga import orchestrator
from pillarbox.saga.journal import Journal, decode_journal
from tests.integration.boxes import make_box
from tests.unit.saga.standing import stands
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SOON = timedelta(seconds=20)


@dataclass
class Order:
    order_id: str
    parcel: str = ""


@command("releases.ship", queue="releases", key="order_id")
@dataclass(frozen=True)
class Ship:
    order_id: str


@event("releases.shipped", key="order_id")
@dataclass(frozen=True)
class Shipped:
    order_id: str


@event("releases.handed-over", key="order_id")
@dataclass(frozen=True)
class HandedOver:
    order_id: str
    parcel: str


def shipping(version: int, reply: type[object]) -> Saga[Order]:
    """A saga that awaits ``reply``."""
    saga = Saga("fulfilment", state=Order, version=version)

    @saga.request(replies=(reply,))
    def ship(state: Order) -> Ship:
        return Ship(state.order_id)

    if reply is HandedOver:

        @ship.on(HandedOver)
        def handed_over(state: Order, reply: HandedOver) -> None:
            state.parcel = reply.parcel

    return saga


def reads(box: Pillarbox, has: Callable[[Journal], bool]) -> Callable[[], Awaitable[bool]]:
    """Whether the journal of the only saga is so."""

    async def does() -> bool:
        return has(decode_journal((await box.sagas.get("o-1")).journal))

    return does


async def test_a_reply_of_a_type_that_only_the_next_release_knows_is_not_lost_at_the_last_one(sqlite_url: str) -> None:
    last, _ = make_box(sqlite_url)
    last.include(shipping(1, Shipped))
    following, _ = make_box(sqlite_url)
    newer = shipping(2, HandedOver)
    following.include(newer)
    stock, _ = make_box(sqlite_url, service="stock")

    @stock.on(Ship, name="ship")
    async def ship(wanted: Ship, tx: AsyncConnection) -> HandedOver:
        return HandedOver(wanted.order_id, "p-1")

    async with following.running():
        async with following.transaction() as tx:
            await following.sagas.start(newer, Order("o-1"), saga_id="o-1", tx=tx)
        await wait_until(reads(following, lambda journal: "ship" in journal.do), SOON)
    async with last.running(), stock.running():
        await wait_until(reads(last, lambda journal: bool(journal.arrived)), SOON)
    async with following.running():
        await wait_until(reads(following, lambda journal: journal.status == "completed"), SOON)

        assert '"parcel":"p-1"' in (await following.sagas.get("o-1")).state
        assert not await following.dead_letters.list()


async def test_a_reply_that_a_release_has_added_to_a_version_is_left_to_it_by_the_last_one(sqlite_url: str) -> None:
    last, _ = make_box(sqlite_url)
    last.include(shipping(1, Shipped))
    following, _ = make_box(sqlite_url)
    newer = shipping(1, HandedOver)
    following.include(newer)
    stock, _ = make_box(sqlite_url, service="stock")

    @stock.on(Ship, name="ship")
    async def ship(wanted: Ship, tx: AsyncConnection) -> HandedOver:
        return HandedOver(wanted.order_id, "p-1")

    async with following.running():
        async with following.transaction() as tx:
            await following.sagas.start(newer, Order("o-1"), saga_id="o-1", tx=tx)
        await wait_until(reads(following, lambda journal: "ship" in journal.do), SOON)
    async with last.running(), stock.running():
        has_looked = lambda journal: any(one.what == "not known here" for one in journal.history)  # noqa: E731
        await wait_until(reads(last, has_looked), SOON)
    async with following.running():
        await wait_until(reads(following, lambda journal: journal.status == "completed"), SOON)

        assert '"parcel":"p-1"' in (await following.sagas.get("o-1")).state


async def test_a_release_starts_again_while_the_next_one_takes_over_what_it_has_under_way(sqlite_url: str) -> None:
    first, second = shipping(1, Shipped), shipping(2, Shipped)
    second.upcasters[1] = lambda state: state

    @second.step
    async def thank(state: Order) -> None: ...

    last, _ = make_box(sqlite_url)
    last.include(first)
    async with last, last.transaction() as tx:
        await last.sagas.start(first, Order("o-1"), saga_id="o-1", tx=tx)
    async with last.running(relay=False):
        await wait_until(reads(last, lambda journal: "ship" in journal.do), SOON)
    following, _ = make_box(sqlite_url)
    following.include(second)
    async with following.running(relay=False):
        assert await following.check_sagas() == ()

    again, _ = make_box(sqlite_url)
    again.include(shipping(1, Shipped))
    async with again.running(relay=False):
        assert await again.check_sagas() == (), "its steps are what they were, and so is what it has under way"


def going_through(version: int, *names: str, may_go: asyncio.Event, **options: Any) -> Saga[Order]:
    """A saga that waits in its first step until it ``may_go``, and notes in its parcel what it goes through."""
    saga: Saga[Order] = Saga("fulfilment", state=Order, version=version, **options)

    async def step(state: Order, ctx: SagaContext) -> None:
        state.parcel += f"{ctx.step}{version} "
        await may_go.wait()

    for name in names:
        saga.step(name=name)(step)
    return saga


@pytest.mark.parametrize("processes", [1, 2])
async def test_instances_of_two_versions_that_run_at_once_both_end_by_their_own_steps(
    sqlite_url: str, processes: int
) -> None:
    may_go = asyncio.Event()
    first, second = going_through(1, "a", "b", may_go=may_go), going_through(2, "a", "c", may_go=may_go)
    boxes = [make_box(sqlite_url)[0] for _ in range(processes)]
    boxes[0].include(first)
    boxes[-1].include(second)
    async with AsyncExitStack() as running:
        for box in boxes:
            await running.enter_async_context(box.running())
        async with boxes[0].transaction() as tx:
            await boxes[0].sagas.start(first, Order("o-1"), saga_id="o-1", tx=tx)
            await boxes[-1].sagas.start(second, Order("o-2"), saga_id="o-2", tx=tx)
        may_go.set()
        ended = [await stands(boxes[0], "fulfilment", one, "completed") for one in ("o-1", "o-2")]

    assert [json.decode(one.state)["parcel"] for one in ended] == ["a1 b1 ", "a2 c2 "]
    assert [one.summary.version for one in ended] == [1, 2]


async def test_upcasters_lead_over_several_versions_and_one_that_raises_holds_up_its_own_instances_alone(
    sqlite_url: str,
) -> None:
    may_go = asyncio.Event()
    may_go.set()

    def raises(state: dict[str, Any]) -> dict[str, Any]:
        if state["order_id"] == "o-bad":
            raise KeyError("weight")
        return {**state, "parcel": "from 1, "}

    first = going_through(1, "a", may_go=may_go)
    third = going_through(
        3, "a", may_go=may_go, upcasters={1: raises, 2: lambda state: {**state, "parcel": state["parcel"] + "from 2, "}}
    )
    box, happenings = make_box(sqlite_url)
    box.include(third)
    async with box:
        async with box.transaction() as tx:
            states = {one: Order(one) for one in ("o-bad", "o-1")}
            await box.sagas.start_all(first, states, tx=tx)
        async with box.running():
            ended = await stands(box, "fulfilment", "o-1", "completed")
            await happenings.until(SagaUnreadable)
            bad = await box.sagas.get("o-bad")

    assert json.decode(ended.state)["parcel"] == "from 1, from 2, a3 "
    assert (bad.summary.status, bad.summary.version) == ("running", 1)
    assert [one.error for one in happenings.of(SagaUnreadable)] == [
        "the upcaster from version 1 failed: KeyError: 'weight'"
    ]


def noted(*names: str, undone: list[str], fails: Callable[[str], bool] = lambda step: False) -> Saga[Order]:
    """A saga, always of one version, that notes in its parcel what it goes through."""
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    async def step(state: Order, ctx: SagaContext, tx: AsyncConnection) -> None:
        if fails(ctx.step):
            raise ConnectionError("away")
        state.parcel += f"{ctx.step} "

    async def undo(state: Order, ctx: SagaContext, tx: AsyncConnection) -> None:
        undone.append(ctx.step)

    for name in names:
        retry = Retry(attempts=1_000, immediate=0, first=timedelta(milliseconds=10), factor=1)
        saga.step(name=name, retry=retry)(step).compensate(undo)
    return saga


async def test_what_ended_by_other_steps_of_its_version_is_not_called_compensated_by_those_of_today(
    sqlite_url: str,
) -> None:
    undone: list[str] = []
    last, _ = make_box(sqlite_url)
    first = noted("a", "b", undone=undone)
    last.include(first)
    async with last.running():
        async with last.transaction() as tx:
            await last.sagas.start(first, Order("o-1"), saga_id="o-1", tx=tx)
        await stands(last, "fulfilment", "o-1", "completed")
    following, happenings = make_box(sqlite_url)
    following.include(noted("a", undone=undone))

    async with following.running():
        await following.sagas.compensate("o-1", reason="it was a mistake", by="ann")
        await happenings.until(SagaUnreadable)
        details = await following.sagas.get("o-1")

        assert (details.summary.status, undone) == ("compensating", [])
        (problem,) = await following.check_sagas()
        assert "it has gone through b, which version 1 has not here" in str(problem)


@pytest.mark.parametrize("others", [("x", "y"), ("b", "a")], ids="-".join)
async def test_of_two_releases_with_other_steps_of_one_version_an_instance_goes_through_those_of_one(
    sqlite_url: str, others: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orchestrator, "UNREADABLE_AGAIN", timedelta(milliseconds=20))
    is_away = True
    sagas = [noted(*names, undone=[], fails=lambda step: step != "a" and is_away) for names in (("a", "b"), others)]
    boxes, told = zip(*(make_box(sqlite_url) for _ in sagas), strict=True)
    for box, saga in zip(boxes, sagas, strict=True):
        box.include(saga)
    async with boxes[0].running(), boxes[1].running():
        async with boxes[0].transaction() as tx:
            await boxes[0].sagas.start(sagas[0], Order("o-1"), saga_id="o-1", tx=tx)
        await wait_until(lambda: any(one.of(SagaUnreadable) for one in told), SOON, what="word of the other steps")
        is_away = False
        ended = await stands(boxes[0], "fulfilment", "o-1", "completed")

    assert json.decode(ended.state)["parcel"] in ("a b ", " ".join((*others, "")))
