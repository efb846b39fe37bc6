"""Idempotent operations of two transactions at once, and under what else can mislead them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from pymysql.constants import CLIENT
from sqlalchemy import create_engine, insert, make_url, select, text

from pillarbox.errors import ConfigurationError, ConflictError
from pillarbox.idempotency import advance_state, apply_once, insert_once, update_if_version, upsert_if_newer
from pillarbox.testing.waiting import assert_blocked
from tests.contract.shop_tables import Account, loose, orders

if TYPE_CHECKING:
    from random import Random

    from sqlalchemy.ext.asyncio import AsyncConnection

    from pillarbox.relational import RelationalStore

LIFE = ("placed", "paid", "shipped")
ANN, FIRST = {"name": "ann"}, {"id": "o-1"}
POSTGRESQL = pytest.param("postgresql+psycopg", marks=pytest.mark.server)
ASYNCPG = pytest.param("postgresql+asyncpg", marks=pytest.mark.server)
MARIADB = pytest.param("mariadb+asyncmy", marks=pytest.mark.server)

Work = Callable[["AsyncConnection"], Awaitable[Any]]

three_databases = pytest.mark.parametrize("store", ["sqlite", POSTGRESQL, MARIADB], indirect=True)


async def insert_first(tx: AsyncConnection) -> str:
    return await insert_once(tx, orders, {**FIRST, "status": "placed", "version": 1}, key="id")


def upsert(version: int) -> Work:
    async def work(tx: AsyncConnection) -> tuple[str, Any]:
        done = await upsert_if_newer(tx, orders, {**FIRST, "version": version}, key="id")
        return done.outcome, done.version

    return work


async def update_first(tx: AsyncConnection) -> tuple[str, Any]:
    done = await update_if_version(tx, orders, {"status": "paid"}, key=FIRST, expected=1)
    return done.outcome, done.version


def pay(operation: str) -> Work:
    async def work(tx: AsyncConnection) -> str:
        return await apply_once(tx, Account, {"cents": 5}, key=ANN, operation=operation)

    return work


def advance(to: str) -> Work:
    async def work(tx: AsyncConnection) -> tuple[str, Any]:
        done = await advance_state(tx, orders, key=FIRST, to=to, order=LIFE)
        return done.outcome, done.state

    return work


async def delete_first(tx: AsyncConnection) -> None:
    await tx.execute(orders.delete())


async def once(shop: RelationalStore, work: Work) -> Any:
    """Do ``work`` in a transaction of its own, again for as long as the database asks for that."""
    while True:
        try:
            async with shop.begin() as tx:
                return await work(tx.connection)
        except Exception as error:
            if not isinstance(shop.translate(error), ConflictError):
                raise


@pytest.fixture
async def filled(shop: RelationalStore) -> RelationalStore:
    """One order and one account."""
    async with shop.begin() as tx:
        await insert_first(tx.connection)
        await tx.connection.execute(insert(Account).values(**ANN, cents=0))
    return shop


class EndedError(Exception):
    """Ends a transaction without its commit."""


async def both(shop: RelationalStore, first: Work, second: Work, *, commit: bool = True) -> Any:
    """Begin ``second`` while the transaction of ``first`` is open; return what came of it once that has ended."""
    async with asyncio.TaskGroup() as tasks:
        try:
            async with shop.begin() as tx:
                await first(tx.connection)
                waiting = tasks.create_task(once(shop, second))
                await assert_blocked(waiting)
                if not commit:
                    raise EndedError
        except EndedError:
            pass
    return waiting.result()


@three_databases
async def test_the_second_insertion_learns_the_fate_of_the_first(shop: RelationalStore) -> None:
    assert await both(shop, insert_first, insert_first, commit=False) == "inserted"
    await once(shop, delete_first)
    assert await both(shop, insert_first, insert_first) == "there"


@three_databases
async def test_of_two_versions_at_once_the_newer_one_is_left(shop: RelationalStore) -> None:
    for there_before in (False, True):
        for first, second, expected in [(2, 1, "stale"), (1, 2, "updated"), (2, 2, "stale")]:
            await once(shop, delete_first)
            if there_before:
                await once(shop, upsert(0))
            assert await both(shop, upsert(first), upsert(second)) == (expected, 2)


@three_databases
async def test_a_version_that_is_rolled_back_makes_nothing_stale(shop: RelationalStore) -> None:
    assert await both(shop, upsert(2), upsert(1), commit=False) == ("inserted", 1)
    assert await both(shop, upsert(3), upsert(2), commit=False) == ("updated", 2)


@three_databases
async def test_a_row_that_vanishes_meanwhile_is_inserted(filled: RelationalStore) -> None:
    assert await both(filled, delete_first, upsert(2)) == ("inserted", 2)
    assert await both(filled, delete_first, insert_first) == "inserted"
    assert await both(filled, delete_first, update_first) == ("missing", None)


@three_databases
async def test_of_two_updates_of_a_version_one_is_stale(filled: RelationalStore) -> None:
    assert await both(filled, update_first, update_first) == ("stale", 2)


@three_databases
async def test_an_operation_applied_at_the_same_moment_is_a_duplicate_if_the_other_commits(
    filled: RelationalStore,
) -> None:
    assert await both(filled, pay("p-5"), pay("p-5"), commit=False) == "applied"
    assert await both(filled, pay("p-6"), pay("p-6")) == "duplicate"
    assert await both(filled, pay("p-8"), pay("p-7")) == "applied"
    assert await once(filled, balance) == 20


async def balance(tx: AsyncConnection) -> int | None:
    return await tx.scalar(select(Account.cents).filter_by(**ANN))


@three_databases
async def test_a_state_written_at_the_same_moment_is_not_turned_back(filled: RelationalStore) -> None:
    assert await both(filled, advance("shipped"), advance("paid")) == ("ignored", "shipped")
    await once(filled, delete_first)
    await once(filled, insert_first)
    assert await both(filled, advance("paid"), advance("shipped")) == ("advanced", "shipped")
    assert await once(filled, advance("placed")) == ("ignored", "shipped")


@pytest.mark.parametrize("store", [POSTGRESQL, MARIADB], indirect=True)
async def test_of_many_deliveries_in_any_order_each_payment_counts_once(filled: RelationalStore, rng: Random) -> None:
    deliveries = [number for number in range(15) for _ in range(3)]
    rng.shuffle(deliveries)

    async def lane(part: list[int]) -> list[str]:
        return [await once(filled, pay(f"p-{number}")) for number in part]

    async with asyncio.TaskGroup() as tasks:
        lanes = [tasks.create_task(lane(deliveries[start::4])) for start in range(4)]

    outcomes = sorted(outcome for one in lanes for outcome in one.result())
    assert outcomes == ["applied"] * 15 + ["duplicate"] * 30
    assert await once(filled, balance) == 75


REREAD = {  # what another transaction does after the snapshot, then what comes of the operation when nothing asks again
    "insert_once": (insert_first, insert_first, "there"),
    "upsert_if_newer": (upsert(5), upsert(4), ("stale", 5)),
    "update_if_version": (update_first, update_first, ("stale", 2)),
    "apply_once": (pay("p-1"), pay("p-1"), "duplicate"),
    "advance_state": (advance("shipped"), advance("paid"), ("ignored", "shipped")),
}


@pytest.mark.parametrize("store", [POSTGRESQL, ASYNCPG, MARIADB], indirect=True)
@pytest.mark.parametrize("operation", REREAD)
async def test_under_repeatable_read_the_answer_is_right_or_the_transaction_is_asked_for_again(
    filled: RelationalStore, operation: str
) -> None:
    earlier, work, expected = REREAD[operation]
    if operation == "insert_once":
        await once(filled, delete_first)
    async with filled.engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        await connection.execute(select(orders))
        await connection.execute(select(Account.cents))
        await once(filled, earlier)
        try:
            found = await work(connection)
        except Exception as error:
            if not isinstance(filled.translate(error), ConflictError):
                raise
            await connection.rollback()
            found = await work(connection)
        await connection.rollback()

    assert found == expected


@pytest.mark.server
@pytest.mark.parametrize("flags", [0, CLIENT.FOUND_ROWS], ids=["changed-rows", "found-rows"])
def test_what_mariadb_counts_decides_nothing(mariadb_url: str, flags: int) -> None:
    url = make_url(mariadb_url).set(drivername="mariadb+pymysql")
    engine = create_engine(url, connect_args={"client_flag": flags})
    with engine.begin() as tx:
        orders.create(tx)
        same = {**FIRST, "status": "shipped", "version": 1}
        assert insert_once(tx, orders, same, key="id").inserted
        counted = tx.execute(orders.update().values(status="shipped")).rowcount
        assert counted == (1 if flags else 0), "the driver does what this test is about"
        assert not insert_once(tx, orders, same, key="id").inserted
        assert upsert_if_newer(tx, orders, same, key="id").stale
        assert update_if_version(tx, orders, {"status": "shipped"}, key=FIRST, expected=1).updated
        assert update_if_version(tx, orders, {"status": "shipped"}, key=FIRST, expected=1).stale
        assert advance_state(tx, orders, key=FIRST, to="shipped", order=LIFE).ignored
        assert advance_state(tx, orders, key={"id": "o-2"}, to="shipped", order=LIFE).missing
    engine.dispose()


@pytest.mark.parametrize("store", [MARIADB], indirect=True)
def test_a_collation_that_takes_two_keys_for_one_is_found_out(shop: RelationalStore) -> None:
    with shop.sync_engine.begin() as tx:
        tx.execute(text("ALTER TABLE shop_loose MODIFY id VARCHAR(200) COLLATE utf8mb4_general_ci"))
        insert_once(tx, loose, {"id": "Msg1", "status": "placed", "version": 1, "cents": 0}, key="id")
        there = tx.execute(select(loose)).all()

        for alike in ("mSG1", "Msg1 "):
            key = {"id": alike}
            works: list[Callable[[], object]] = [
                lambda key=key: insert_once(tx, loose, key, key="id"),  # type: ignore[misc]
                lambda key=key: upsert_if_newer(tx, loose, {**key, "version": 2}, key="id"),  # type: ignore[misc]
                lambda key=key: update_if_version(tx, loose, {}, key=key, expected=1),  # type: ignore[misc]
                lambda key=key: advance_state(tx, loose, key=key, to="paid", order=LIFE),  # type: ignore[misc]
                lambda key=key: apply_once(tx, loose, {"cents": 5}, key=key, operation="p-1"),  # type: ignore[misc]
            ]
            for work in works:
                with pytest.raises(ConfigurationError, match="collation"):
                    work()
        assert tx.execute(select(loose)).all() == there
        assert apply_once(tx, loose, {"cents": 5}, key={"id": "Msg1"}, operation="p-1").applied
