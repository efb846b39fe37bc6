"""A consumer that is alone: over all processes one message at a time, in the order they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec import structs
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Retry, SingleConsumer
from pillarbox.channel import Subscription
from pillarbox.lease import LeaseTerms
from pillarbox.observe import MessageHandled, WorkerFaltered
from pillarbox.relational.tables import leases
from tests.integration.boxes import OrderPlaced, create_tables, make_box, note, noted, publish
from tests.integration.conftest import MARIADB
from tests.integration.single_worker import SETTINGS, single_box
from tests.messages import message
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from tests.processes import PythonProcesses

MESSAGES = 150
STORES = [pytest.param("postgresql+psycopg", marks=pytest.mark.server), MARIADB]


@pytest.mark.parametrize("store_url", STORES, indirect=True)
async def test_two_processes_one_killed_handle_each_message_once_and_in_order(
    store_url: str, python_processes: PythonProcesses
) -> None:
    box = single_box(store_url)
    names = [f"o-{number:03}" for number in range(MESSAGES)]
    async with box:
        await create_tables(box)
        await fill(box, names)

        first = python_processes.start("tests.integration.single_worker", store_url)

        async def some() -> bool:
            return len(await noted(box)) >= 10

        async def all_of_them() -> bool:
            return len(await noted(box)) >= MESSAGES

        await wait_until(some, timedelta(seconds=60))
        second = python_processes.start("tests.integration.single_worker", store_url)
        before = len(await noted(box))
        await wait_until(lambda: second.exit_code is None, timedelta(seconds=5))
        first.kill()
        await wait_until(all_of_them, timedelta(seconds=90))

        assert before < MESSAGES
        assert await noted(box) == names


@pytest.mark.parametrize("store_url", STORES, indirect=True)
async def test_of_two_processes_that_are_frozen_in_turn_the_other_takes_over_and_the_order_stays(
    store_url: str, python_processes: PythonProcesses
) -> None:
    box = single_box(store_url)
    names = [f"o-{number:03}" for number in range(MESSAGES)]

    async def handled(count: int) -> bool:
        return len(await noted(box)) >= min(count, MESSAGES)

    async with box:
        await create_tables(box)
        await fill(box, names)
        async with resting_is_ended(box):
            both = [python_processes.start("tests.integration.single_worker", store_url) for _ in range(2)]
            await wait_until(lambda: handled(10), timedelta(seconds=60))
            for process in both:  # one of them is at work
                before = len(await noted(box))
                process.pause()
                await wait_until(lambda count=before + 30: handled(count), timedelta(seconds=60))  # type: ignore[misc]
                process.resume()
            await wait_until(lambda: handled(MESSAGES), timedelta(seconds=90))

        assert await noted(box) == names


async def fill(box: Pillarbox, names: list[str]) -> None:
    """Put orders of these names into the consumer's queue."""
    await box.store.run(box.store.queue.subscribe(Subscription(consumer="shop/alone", channels=("topic:order",))))
    messages = [structs.replace(message(name, key=name), body=b'{"order_id": "%s"}' % name.encode()) for name in names]
    await box.store.run(box.store.queue.enqueue(messages))


@asynccontextmanager
async def resting_is_ended(box: Pillarbox) -> AsyncGenerator[None]:
    """Have the server end transactions that rest for two seconds, as the page on orders says."""
    async with box.store.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        if connection.dialect.name == "postgresql":
            name = await connection.scalar(text("SELECT current_database()"))
            begin = f'ALTER DATABASE "{name}" SET idle_in_transaction_session_timeout = 2000'
            end = f'ALTER DATABASE "{name}" RESET idle_in_transaction_session_timeout'
        else:
            begin, end = (f"SET GLOBAL idle_transaction_timeout = {seconds}" for seconds in (2, 0))
        await connection.execute(text(begin))
        try:
            yield
        finally:
            await connection.execute(text(end))


@pytest.mark.parametrize("store_url", STORES, indirect=True)
async def test_a_run_under_way_does_not_commit_when_another_process_has_taken_over(store_url: str) -> None:
    box, happenings = make_box(store_url, settings=SETTINGS)
    begun, released = asyncio.Event(), asyncio.Event()
    calls = [0]

    @box.on(OrderPlaced, name="alone", ordering=SingleConsumer())
    async def alone(order: OrderPlaced, tx: AsyncConnection) -> None:
        calls[0] += 1
        begun.set()
        await released.wait()
        await note(tx, order.order_id)

    scope = LeaseTerms(scope="single/shop/alone", slots=1, ttl=timedelta(minutes=1), whole=True)
    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("first"))
        await asyncio.wait_for(begun.wait(), 30)
        async with box.transaction() as tx:
            await tx.execute(update(leases).where(leases.c.scope == scope.scope).values(owner=None, expires_at=0))
        taken = await box.store.run(box.store.leases.heartbeat(scope, "another"))
        assert len(taken.tokens) == 1
        released.set()
        await wait_until(lambda: bool(happenings.of(WorkerFaltered)), timedelta(seconds=30))
        assert await noted(box) == []

        await box.store.run(box.store.leases.leave(scope, "another"))
        await happenings.until(MessageHandled)
        assert await noted(box) == ["first"]
        assert calls[0] >= 2, "what it did under the lost lease was undone"


async def test_a_message_that_waits_for_its_retry_keeps_all_later_ones_behind_it(sqlite_url: str) -> None:
    box, happenings = make_box(sqlite_url)
    failures = [2]

    @box.on(
        OrderPlaced,
        name="alone",
        ordering=SingleConsumer(),
        retry=Retry(attempts=5, immediate=0, first=timedelta(milliseconds=50), factor=1),
    )
    async def alone(order: OrderPlaced, tx: AsyncConnection) -> None:
        if order.order_id == "first" and failures[0] > 0:
            failures[0] -= 1
            raise ValueError("not yet")
        await note(tx, order.order_id)

    async with box:
        await create_tables(box)
        async with box.running():
            await publish(box, OrderPlaced("first"), OrderPlaced("second"), OrderPlaced("third"))
            await happenings.until(MessageHandled, 3)
            handled = await noted(box)

    assert handled[0] == "first"
    assert sorted(handled) == ["first", "second", "third"]
