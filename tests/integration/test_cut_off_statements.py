"""Functions that are cut off in a long statement: the database gives up the statement, and what it has locked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Retry, Saga
from tests.integration.boxes import OrderPlaced, create_tables, has_noted, make_box, note, noted, publish
from tests.integration.test_saga_runs import end_of, failures
from tests.waiting import wait_until

pytestmark = pytest.mark.server

BRIEF = timedelta(milliseconds=300)
SOON_S = 8
"""Sooner than a statement ends that is not given up, and than a lock wait does."""
LONG = {
    "postgresql": text("SELECT pg_sleep(60)"),
    "mariadb": text("SELECT BENCHMARK(100000000, SHA2('a', 256))"),  # SLEEP looks for its client every 5 s; this not
}
AT_ONCE = Retry(attempts=3, immediate=0, first=timedelta(milliseconds=10))


@dataclass
class Order:
    order_id: str


@pytest.fixture(params=["postgresql", "postgresql+asyncpg", "mariadb"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, database: str) -> str:
    server, _, driver = database.partition("+")
    url = make_url(str(request.getfixturevalue(f"{server}_url")))
    return str(url.set(drivername=database) if driver else url)


async def test_a_step_that_is_cut_off_in_a_statement_is_tried_again_and_has_left_no_lock(
    url: str, database: str
) -> None:
    box, _ = make_box(url)
    saga: Saga[Order] = Saga("fulfilment", state=Order)
    tries: list[float] = []

    @saga.step(timeout=BRIEF, retry=AT_ONCE)
    async def reserve(state: Order, tx: AsyncConnection) -> None:
        tries.append(monotonic())
        await note(tx, "reserved")
        await tx.execute(text("UPDATE effects SET what = 'taken' WHERE number = 1"))
        if len(tries) == 1:
            await tx.execute(LONG[database.partition("+")[0]])

    box.include(saga)
    async with box.running():
        await create_tables(box)
        async with box.transaction() as tx:
            await note(tx, "free")
        async with box.transaction() as tx:
            await box.sagas.start(saga, Order("o-1"), saga_id="o-1", tx=tx)
        found = await end_of(box, "o-1")
        took, effects = monotonic() - tries[0], sorted(await noted(box))

    assert found.summary.status == "completed"
    assert failures(found) == [("reserve", "failed")]
    assert effects == ["reserved", "taken"]
    assert took < SOON_S


async def test_a_handler_that_is_cut_off_in_a_statement_is_tried_again_and_has_left_no_lock(
    url: str, database: str
) -> None:
    box, _ = make_box(url)
    tries: list[float] = []

    @box.on(OrderPlaced, name="reserve", timeout=BRIEF, retry=AT_ONCE)
    async def reserve(order: OrderPlaced, tx: AsyncConnection) -> None:
        tries.append(monotonic())
        await tx.execute(text("UPDATE effects SET what = 'taken' WHERE number = 1"))
        if len(tries) == 1:
            await tx.execute(LONG[database.partition("+")[0]])
        await note(tx, "reserved")

    async with box.running():
        await create_tables(box)
        async with box.transaction() as tx:
            await note(tx, "free")
        await publish(box, OrderPlaced("o-1"))
        await wait_until(has_noted(box, 2), timedelta(seconds=20))
        took, effects = monotonic() - tries[0], sorted(await noted(box))

    assert effects == ["reserved", "taken"]
    assert len(tries) == 2
    assert took < SOON_S


async def test_a_transaction_that_is_cancelled_in_a_statement_lets_go_of_its_locks(url: str, database: str) -> None:
    box, _ = make_box(url)
    async with box:
        await create_tables(box)
        async with box.transaction() as tx:
            await note(tx, "free")

        async def take() -> None:
            async with box.transaction() as tx:
                await tx.execute(text("UPDATE effects SET what = 'taken' WHERE number = 1"))
                await tx.execute(LONG[database.partition("+")[0]])

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(take(), BRIEF.total_seconds())
        async with asyncio.timeout(SOON_S), box.transaction() as tx:
            await tx.execute(text("UPDATE effects SET what = 'given' WHERE number = 1"))

        assert await noted(box) == ["given"]
