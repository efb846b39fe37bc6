"""A lone saga whose calls come back goes on in single statements, for as long as nobody else changes it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, Saga, SagaContext, Settings
from pillarbox.relational.sagas import RelationalSagaStore
from pillarbox.saga.journal import decode_journal
from pillarbox.saga.machine import MARGIN
from pillarbox.testing import VirtualClock
from pillarbox.transaction import Program
from tests.integration.boxes import OrderPlaced, create_tables, note, noted
from tests.integration.test_saga_runs import end_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.saga.store import ChangedSaga, SagaDetails

SOON = timedelta(seconds=20)
PENDING = text("SELECT count(*) FROM pillarbox_outbox")
MINUTE_US = 60_000_000

pytestmark = pytest.mark.parametrize("store_url", ["sqlite", "postgresql+asyncpg", "postgresql+psycopg"], indirect=True)


@dataclass
class Order:
    order_id: str
    done: list[str] = field(default_factory=list[str])


def a_box(url: str) -> Pillarbox:
    """A box whose time stands still: nothing falls due there, and no pause ends."""
    return Pillarbox("shop", store=url, settings=Settings(clock=VirtualClock()))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, *, later_us: int = 0) -> Iterator[Counter[str]]:
    """Count how sagas are read and written; the clock of the database that is told of is ``later_us`` ahead."""
    counts: Counter[str] = Counter()

    def count(name: str) -> None:
        method: Callable[..., Any] = getattr(RelationalSagaStore, name)

        def counting(*given: Any, **named: Any) -> Any:
            counts[name] += bool(given[-1])
            return method(*given, **named)

        monkeypatch.setattr(RelationalSagaStore, name, counting)

    for name in ("lock", "due", "save"):
        count(name)
    method, next_due = RelationalSagaStore.save_unlocked, RelationalSagaStore.next_due

    def asked(*given: Any, **named: Any) -> Program[timedelta | None]:
        found = yield from next_due(*given, **named)
        counts["asked when the next is due"] += 1
        return found

    def save_unlocked(store: RelationalSagaStore, changed: ChangedSaga, *, serial: int) -> Program[int | None]:
        program = method(store, changed, serial=serial)
        assert program is not None
        now_us = yield from program
        counts["without a lock" if now_us is not None else "refused"] += 1
        return None if now_us is None else now_us + later_us

    monkeypatch.setattr(RelationalSagaStore, "save_unlocked", save_unlocked)
    monkeypatch.setattr(RelationalSagaStore, "next_due", asked)
    yield counts
    monkeypatch.undo()


def calling(saga: Saga[Order], *names: str) -> None:
    """Give ``saga`` steps that make calls to the outside."""
    for name in names:

        @saga.step(name=name)
        async def call(state: Order, ctx: SagaContext) -> None:
            state.done.append(ctx.step)


async def run(box: Pillarbox, saga: Saga[Order], *order_ids: str) -> None:
    """Start sagas in a running box."""
    async with box.transaction() as tx:
        await box.sagas.start_all(saga, {one: Order(one) for one in order_ids}, tx=tx)


def done(found: SagaDetails) -> list[str]:
    return [f"{one.direction}:{one.step}" for one in decode_journal(found.journal).history if one.what == "done"]


async def test_a_lone_saga_of_calls_is_read_once_and_each_answer_is_one_statement(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = a_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    calling(saga, "one", "two", "three", "four")
    box.include(saga)
    with counted(monkeypatch) as counts:
        async with box.running():
            await run(box, saga, "o-1")
            found = await end_of(box, "o-1")

    assert found.summary.status == "completed"
    assert done(found) == ["do:one", "do:two", "do:three", "do:four"]
    assert msgspec.json.decode(found.state)["done"] == ["one", "two", "three", "four"]
    assert counts["without a lock"] == 4
    assert (counts["save"], counts["lock"], counts["refused"]) == (1, 0, 0)


async def test_a_call_that_fails_is_repeated_on_the_same_way(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    box = a_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    attempts: list[int] = []

    @saga.step(retry=Retry(attempts=3, immediate=3))
    async def call(state: Order, ctx: SagaContext) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError

    box.include(saga)
    with counted(monkeypatch) as counts:
        async with box.running():
            await run(box, saga, "o-1")
            assert (await end_of(box, "o-1")).summary.status == "completed"

    assert attempts == [1, 2, 3]
    assert counts["without a lock"] == 3


async def test_what_needs_a_transaction_is_done_in_one(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    box = a_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)

    @saga.step
    async def call(state: Order, ctx: SagaContext) -> None:
        state.done.append("called")
        ctx.publish(OrderPlaced(state.order_id))

    @saga.step
    async def write(state: Order, tx: AsyncConnection) -> None:
        await note(tx, f"{state.order_id} {state.done}")

    calling(saga, "last")
    box.include(saga)
    with counted(monkeypatch) as counts:
        async with box.running(relay=False):
            await create_tables(box)
            await run(box, saga, "o-1")
            assert done(await end_of(box, "o-1")) == ["do:call", "do:write", "do:last"]
            assert await noted(box) == ["o-1 ['called']"]
            async with box.transaction() as tx:
                assert (await tx.execute(PENDING)).scalar_one() == 1

    assert counts["without a lock"] == 1, "what the last call came back with"


async def test_parallel_calls_of_one_saga_all_count(store_url: str) -> None:
    box = a_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    together = asyncio.Barrier(3)
    for name in ("a", "b", "c"):

        @saga.step(name=name, parallel="all")
        async def call(state: Order) -> None:
            await together.wait()

    calling(saga, "last")
    box.include(saga)
    async with box.running():
        await run(box, saga, "o-1", "o-2")  # two at once: each of the barrier's three is of either
        for saga_id in ("o-1", "o-2"):
            found = await end_of(box, saga_id)
            assert sorted(done(found)) == ["do:a", "do:b", "do:c", "do:last"]


async def test_an_operator_s_verb_while_a_call_is_under_way_is_not_overwritten(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = a_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    under_way, goes_on = asyncio.Event(), asyncio.Event()

    @saga.step
    async def call(state: Order) -> None:
        under_way.set()
        await goes_on.wait()

    @call.compensate
    async def undo(state: Order) -> None:
        state.done.append("undone")

    calling(saga, "never")
    box.include(saga)
    elsewhere = a_box(store_url)  # whose verb rings for nobody here
    elsewhere.include(saga)
    with counted(monkeypatch) as counts:
        async with box.running():
            await wait_until(lambda: counts["asked when the next is due"] == 1, SOON)
            await run(box, saga, "o-1")
            await asyncio.wait_for(under_way.wait(), 20)
            await wait_until(lambda: counts["asked when the next is due"] == 2, SOON)
            await elsewhere.sagas.cancel("o-1", reason="the customer called", by="ann")
            goes_on.set()
            found = await end_of(box, "o-1")

    assert found.summary.status == "compensated"
    assert done(found) == ["do:call", "undo:call"]
    assert counts["refused"] == 1
    await elsewhere.store.close()


async def test_a_call_whose_intent_was_written_too_late_is_put_back_and_made_in_time(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the machine was halted: by the database's clock its time is nearly over, and others may begin it."""
    box = a_box(store_url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    made: list[str] = []

    for name in ("one", "two"):

        @saga.step(name=name)
        async def call(state: Order, ctx: SagaContext) -> None:
            made.append(ctx.step)

    box.include(saga)
    with counted(monkeypatch, later_us=MINUTE_US) as counts:
        async with box.running():
            await run(box, saga, "o-1")
            found = await end_of(box, "o-1")

    assert counts["without a lock"] == 2, "the intent that came too late, and the end"
    assert made == ["one", "two"]
    assert [one.what for one in decode_journal(found.journal).history if one.step == "two"] == ["not begun", "done"]


async def test_the_present_is_counted_from_when_a_saga_was_read_though_reading_had_to_wait(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from when it was asked for, the other call would be given up while it still has two seconds."""
    box = a_box(store_url)
    clock, due = box.settings.clock, RelationalSagaStore.due
    assert isinstance(clock, VirtualClock)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    goes_on = {name: asyncio.Event() for name in ("quick", "slow")}

    for name in goes_on:

        @saga.step(name=name, parallel="both", timeout=timedelta(minutes=1))
        async def call(state: Order, ctx: SagaContext) -> None:
            await goes_on[ctx.step].wait()

    def slowly(*given: Any, **named: Any) -> Program[Any]:
        rows = yield from due(*given, **named)
        clock.advance(MARGIN - timedelta(seconds=1) if rows else timedelta(0))
        return rows

    monkeypatch.setattr(RelationalSagaStore, "due", slowly)
    box.include(saga)
    with counted(monkeypatch) as counts:
        async with box.running():
            await wait_until(lambda: counts["asked when the next is due"] == 1, SOON)
            await run(box, saga, "o-1")
            await wait_until(lambda: counts["asked when the next is due"] == 2, SOON)
            clock.advance(timedelta(minutes=1) + 2 * MARGIN - timedelta(seconds=2))
            box._saga_wakeup.ring()  # it may begin to wait only now
            await wait_until(lambda: counts["asked when the next is due"] == 3, SOON)
            goes_on["quick"].set()
            await wait_until(lambda: counts["without a lock"] == 1, SOON)
            goes_on["slow"].set()
            found = await end_of(box, "o-1")

    history = decode_journal(found.journal).history
    assert [one.what for one in history if one.step == "slow"] == ["done"]
