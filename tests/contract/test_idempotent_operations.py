"""Idempotent operations keep their rules on every database, in every kind of the caller's transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from pillarbox.errors import ConfigurationError
from pillarbox.idempotency import (
    Application,
    Insertion,
    StateMachine,
    advance_state,
    apply_once,
    insert_once,
    update_if_version,
    upsert_if_newer,
)
from tests.contract.shop_tables import Account, Stage, orders, parcels, seats
from tests.waiting import wait_until

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from pillarbox.relational import RelationalStore

Run = Callable[[Callable[[Any], Awaitable[Any]]], Awaitable[Any]]
LIFE = ("placed", "paid", "shipped")
ALIKE = ["Msg1", "mSG1", "x", "x ", " x", "é", "e\u0301", "n" * 200, "n" * 199 + "m"]
"""Ids that a loose collation, or a cut, would take for one another."""

FIRST, SECOND = (datetime(2026, 1, day) for day in (1, 2))  # noqa: DTZ001  # the user's column keeps no zone


@pytest.fixture
async def tx(shop: RelationalStore) -> AsyncIterator[AsyncConnection]:
    """A transaction of the caller's."""
    async with shop.begin() as transaction:
        yield transaction.connection


async def row(tx: AsyncConnection, table: Table, **key: object) -> tuple[Any, ...]:
    found = await tx.execute(select(table).filter_by(**key))
    return tuple(found.one())


async def open_account(tx: AsyncConnection, **values: object) -> None:
    await tx.execute(insert(Account).values({"name": "ann", "cents": 0, **values}))


async def balance(tx: AsyncConnection, name: str = "ann") -> int | None:
    return await tx.scalar(select(Account.cents).where(Account.name == name))


# --- insert_once -----------------------------------------------------------------------------------------------------


async def test_a_row_is_inserted_once(tx: AsyncConnection) -> None:
    first = await insert_once(tx, orders, {"id": "o-1", "status": "placed"}, key="id")
    second = await insert_once(tx, orders, {"id": "o-1", "status": "again"}, key="id")

    assert (first, second) == (Insertion.INSERTED, Insertion.THERE)
    assert first.inserted
    assert not second.inserted
    assert await row(tx, orders, id="o-1") == ("o-1", "placed", None, None)


async def test_a_key_may_have_several_columns_that_are_not_the_primary_key(tx: AsyncConnection) -> None:
    seat = {"flight": "LH1", "seat": 7}

    assert (await insert_once(tx, seats, seat, key=("flight", "seat"))).inserted
    assert not (await insert_once(tx, seats, seat, key=(seats.c.flight, seats.c.seat))).inserted
    assert (await insert_once(tx, seats, {**seat, "seat": 8}, key=("flight", "seat"))).inserted


async def test_a_violation_of_another_constraint_is_not_taken_for_a_duplicate(tx: AsyncConnection) -> None:
    await insert_once(tx, seats, {"flight": "LH1", "seat": 7, "ticket": "t-1"}, key=("flight", "seat"))

    with pytest.raises(IntegrityError):
        async with tx.begin_nested():
            await insert_once(tx, seats, {"flight": "LH1", "seat": 8, "ticket": "t-1"}, key=("flight", "seat"))
    with pytest.raises(IntegrityError):
        async with tx.begin_nested():
            await insert_once(tx, Account, {"name": "ann", "payments": None}, key="name")


async def test_ids_that_only_look_alike_are_different(tx: AsyncConnection) -> None:
    for identity in ALIKE:
        assert (await insert_once(tx, orders, {"id": identity, "status": "placed"}, key="id")).inserted
        assert (await upsert_if_newer(tx, orders, {"id": identity, "version": 1}, key="id")).updated
        await open_account(tx, name=identity)
    for identity in ALIKE:
        key = {"name": identity}
        assert await apply_once(tx, Account, {"cents": 1}, key=key, operation=identity) is Application.APPLIED
        assert await apply_once(tx, Account, {"cents": 1}, key=key, operation=identity) is Application.DUPLICATE
        assert await balance(tx, identity) == 1


async def test_a_rolled_back_insertion_never_was(shop: RelationalStore) -> None:
    async with shop.engine.connect() as connection:
        assert (await insert_once(connection, orders, {"id": "o-1"}, key="id")).inserted
        await connection.rollback()
        assert (await insert_once(connection, orders, {"id": "o-1"}, key="id")).inserted
        await connection.rollback()


# --- upsert_if_newer -------------------------------------------------------------------------------------------------


async def test_a_newer_version_overwrites_and_an_older_or_equal_one_does_not(tx: AsyncConnection) -> None:
    async def upsert(status: str, version: int) -> tuple[str, Any]:
        done = await upsert_if_newer(tx, orders, {"id": "o-1", "status": status, "version": version}, key="id")
        return done.outcome, done.version

    assert await upsert("second", 2) == ("inserted", 2)
    assert await upsert("first", 1) == ("stale", 2)
    assert await upsert("twice", 2) == ("stale", 2)
    assert await upsert("third", 3) == ("updated", 3)
    assert await row(tx, orders, id="o-1") == ("o-1", "third", None, 3)


async def test_of_two_versions_in_one_second_the_older_does_not_overwrite(
    tx: AsyncConnection, shop: RelationalStore
) -> None:
    """MariaDB rounds a ``DATETIME`` to whole seconds unless it is declared otherwise."""
    newer, older = (FIRST.replace(microsecond=micros) for micros in (400_000, 200_000))

    if shop.name == "MariaDB":
        with pytest.raises(ConfigurationError, match=r"fsp=6"):
            await upsert_if_newer(tx, parcels, {"number": 1, "sent_at": newer}, key="number", version="sent_at")
        with pytest.raises(ConfigurationError, match=r"fsp=6"):
            await update_if_version(
                tx, parcels, {"sent_at": newer}, key={"number": 1}, expected=FIRST, version="sent_at"
            )
    for column in ("sent_at", "seen_at")[shop.name == "MariaDB" :]:
        await upsert_if_newer(tx, parcels, {"number": 2, column: newer}, key="number", version=column)
        late = await upsert_if_newer(tx, parcels, {"number": 2, column: older}, key="number", version=column)
        assert (late.outcome, late.version) == ("stale", newer)


async def test_instants_are_compared_and_not_their_clocks(tx: AsyncConnection) -> None:
    """SQLite and MariaDB keep no time zone: by their clocks noon in Cairo would be later than eleven in London."""
    noon = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    eleven = datetime(2026, 1, 1, 11, tzinfo=UTC)

    for version, outcome in ((noon, "inserted"), (eleven, "updated"), (noon, "stale")):
        done = await upsert_if_newer(tx, parcels, {"number": 1, "left_at": version}, key="number", version="left_at")
        assert done.outcome == outcome
    read = (await tx.execute(select(parcels.c.left_at))).scalar_one()
    expected = eleven.astimezone(noon.tzinfo) if read.tzinfo else read
    done = await update_if_version(
        tx, parcels, {"left_at": noon}, key={"number": 1}, expected=expected, version="left_at"
    )
    assert done.updated


async def test_a_row_without_a_version_is_older_than_any(tx: AsyncConnection) -> None:
    await insert_once(tx, orders, {"id": "o-1", "status": "placed"}, key="id")

    assert (await upsert_if_newer(tx, orders, {"id": "o-1", "status": "paid", "version": 0}, key="id")).updated


async def test_what_an_upsert_does_not_name_stays(tx: AsyncConnection) -> None:
    await insert_once(tx, orders, {"id": "o-1", "note": "fragile", "version": 1}, key="id")
    await upsert_if_newer(tx, orders, {"id": "o-1", "status": "paid", "version": 2}, key="id")

    assert await row(tx, orders, id="o-1") == ("o-1", "paid", "fragile", 2)


# --- update_if_version -----------------------------------------------------------------------------------------------


async def test_an_update_tells_missing_from_stale_from_updated(tx: AsyncConnection) -> None:
    await insert_once(tx, orders, {"id": "o-1", "status": "placed", "version": 4}, key="id")

    missing = await update_if_version(tx, orders, {"status": "paid"}, key={"id": "o-2"}, expected=4)
    stale = await update_if_version(tx, orders, {"status": "paid"}, key={"id": "o-1"}, expected=3)
    updated = await update_if_version(tx, orders, {"status": "paid"}, key={"id": "o-1"}, expected=4)

    assert (missing.missing, missing.version) == (True, None)
    assert (stale.stale, stale.version) == (True, 4)
    assert (updated.updated, updated.version) == (True, 5)
    assert await row(tx, orders, id="o-1") == ("o-1", "paid", None, 5)


async def test_writing_what_is_there_already_is_an_update_all_the_same(tx: AsyncConnection) -> None:
    await insert_once(tx, orders, {"id": "o-1", "status": "paid", "version": 1}, key="id")

    assert (await update_if_version(tx, orders, {"status": "paid"}, key={"id": "o-1"}, expected=1)).updated
    assert (await advance_state(tx, orders, key={"id": "o-1"}, to="shipped", order=LIFE)).advanced


async def test_a_new_version_may_be_given(tx: AsyncConnection) -> None:
    await insert_once(tx, orders, {"id": "o-1", "version": 1}, key="id")

    done = await update_if_version(tx, orders, {"status": "paid", "version": 9}, key={"id": "o-1"}, expected=1)

    assert (done.updated, done.version) == (True, 9)


# --- apply_once ------------------------------------------------------------------------------------------------------


async def test_a_late_payment_is_added_and_a_duplicate_is_not(tx: AsyncConnection) -> None:
    await open_account(tx)
    paid = [
        await apply_once(
            tx, Account, {"cents": cents, "payments": 1}, key={"name": "ann"}, operation=f"payment-{number}"
        )
        for number, cents in [(6, 600), (5, 500), (6, 600), (5, 500)]
    ]

    assert [one.value for one in paid] == [
        "applied",
        "applied",
        "duplicate",
        "duplicate",
    ]
    assert await balance(tx) == 1100
    assert await tx.scalar(select(Account.payments)) == 2


async def test_a_missing_row_leaves_nothing_recorded(tx: AsyncConnection) -> None:
    pay = {"increments": {"cents": 500}, "key": {"name": "ann"}, "operation": "payment-1"}

    assert (await apply_once(tx, Account, **pay)).missing  # type: ignore[arg-type]
    await open_account(tx)
    assert (await apply_once(tx, Account, **pay)).applied  # type: ignore[arg-type]
    assert (await apply_once(tx, Account, **pay)).duplicate  # type: ignore[arg-type]
    assert await balance(tx) == 500


async def test_an_empty_balance_counts_as_zero(tx: AsyncConnection) -> None:
    await open_account(tx, cents=None)
    await apply_once(tx, Account, {"cents": 500}, key={"name": "ann"}, operation="payment-1")
    await apply_once(tx, Account, {"cents": -200}, key={"name": "ann"}, operation="payment-2")

    assert await balance(tx) == 300


async def test_each_scope_has_its_own_operations(tx: AsyncConnection) -> None:
    await open_account(tx)
    for scope in ("ledger", "Ledger", "loyalty"):
        done = await apply_once(tx, Account, {"cents": 1}, key={"name": "ann"}, operation="m-1", scope=scope)
        assert done.applied

    assert await balance(tx) == 3


async def test_an_operation_that_adds_something_else_is_no_duplicate_but_an_error(tx: AsyncConnection) -> None:
    await open_account(tx)
    await open_account(tx, name="bob")
    await apply_once(tx, Account, {"cents": -5}, key={"name": "ann"}, operation="transfer-1")

    with pytest.raises(ConfigurationError, match="another row"):
        await apply_once(tx, Account, {"cents": 5}, key={"name": "bob"}, operation="transfer-1")
    with pytest.raises(ConfigurationError, match="something else"):
        await apply_once(tx, Account, {"cents": -6}, key={"name": "ann"}, operation="transfer-1")
    assert (await apply_once(tx, Account, {"cents": 5}, key={"name": "bob"}, operation="transfer-1:credit")).applied


async def test_the_longest_ids_are_told_apart(tx: AsyncConnection) -> None:
    await open_account(tx)
    for end in ("a", "b"):
        for expected in (Application.APPLIED, Application.DUPLICATE):
            operation = "shop/" + "ü" * 2000 + end
            assert await apply_once(tx, Account, {"cents": 1}, key={"name": "ann"}, operation=operation) is expected

    assert await balance(tx) == 2


async def test_decimals_are_added_exactly_or_refused(tx: AsyncConnection, shop: RelationalStore) -> None:
    await open_account(tx, owed=None if shop.name == "SQLite" else Decimal("0.1"))
    add = {"key": {"name": "ann"}, "operation": "interest-1"}

    if shop.name == "SQLite":
        with pytest.raises(ConfigurationError, match="floating point"):
            await apply_once(tx, Account, {"owed": Decimal("0.2")}, **add)  # type: ignore[arg-type]
        return
    assert (await apply_once(tx, Account, {"owed": Decimal("1234567890123456.0002")}, **add)).applied  # type: ignore[arg-type]
    assert await tx.scalar(select(Account.owed)) == Decimal("1234567890123456.1002")


async def test_decimals_are_added_or_refused_but_never_rounded(tx: AsyncConnection, shop: RelationalStore) -> None:
    """``NUMERIC`` alone keeps any places on PostgreSQL and none on MariaDB."""
    await insert_once(tx, parcels, {"number": 1, "weight": 0}, key="number")
    amount: dict[str, Any] = {"increments": {"weight": Decimal("0.4")}, "key": {"number": 1}}

    if shop.name != "PostgreSQL":
        with pytest.raises(ConfigurationError, match="round"):
            await apply_once(tx, parcels, **amount, operation="w-1")
        return
    for number in range(4):
        assert (await apply_once(tx, parcels, **amount, operation=f"w-{number}")).applied
    assert await tx.scalar(select(parcels.c.weight)) == Decimal("1.6")


# --- advance_state ---------------------------------------------------------------------------------------------------


async def test_a_shipped_order_does_not_return_to_placed(tx: AsyncConnection) -> None:
    await insert_once(tx, orders, {"id": "o-1", "status": "placed"}, key="id")

    async def advance(to: str) -> tuple[str, Any]:
        done = await advance_state(tx, orders, key={"id": "o-1"}, to=to, order=LIFE, values={"note": to})
        return done.outcome, done.state

    assert await advance("shipped") == ("advanced", "shipped")  # what says "paid" comes late
    assert await advance("paid") == ("ignored", "shipped")
    assert await advance("shipped") == ("ignored", "shipped")
    assert await advance("placed") == ("ignored", "shipped")
    assert await row(tx, orders, id="o-1") == ("o-1", "shipped", "shipped", None)


async def test_a_machine_says_which_states_may_follow(tx: AsyncConnection) -> None:
    machine = StateMachine(
        {"placed": ("paid", "cancelled"), "paid": ("shipped", "cancelled"), "shipped": (), "cancelled": ()}
    )
    await insert_once(tx, orders, {"id": "o-1", "status": "placed"}, key="id")

    async def advance(to: str) -> str:
        return (await advance_state(tx, orders, key={"id": "o-1"}, to=to, order=machine)).outcome

    assert await advance("shipped") == "refused"
    assert await advance("cancelled") == "advanced"
    assert await advance("paid") == "refused"
    assert await advance("placed") == "ignored"


async def test_a_state_that_no_order_knows_is_not_overwritten(tx: AsyncConnection) -> None:
    await insert_once(tx, orders, {"id": "o-1", "status": "lost"}, key="id")
    await insert_once(tx, orders, {"id": "o-2"}, key="id")

    lost = await advance_state(tx, orders, key={"id": "o-1"}, to="shipped", order=LIFE)
    empty = await advance_state(tx, orders, key={"id": "o-2"}, to="shipped", order=LIFE)
    missing = await advance_state(tx, orders, key={"id": "o-3"}, to="shipped", order=LIFE)

    assert (lost.refused, lost.state) == (True, "lost")
    assert (empty.refused, empty.state) == (True, None)
    assert (missing.missing, missing.state) == (True, None)


async def test_columns_of_the_user_s_own_types_serve(tx: AsyncConnection) -> None:
    first, order = {"number": 1}, (Stage.PACKED, Stage.SENT, Stage.DELIVERED)
    await insert_once(tx, parcels, {**first, "stage": Stage.PACKED, "sent_at": SECOND}, key="number")

    late = await advance_state(tx, parcels, key=first, to=Stage.DELIVERED, order=order, column="stage")
    later = await advance_state(tx, parcels, key=first, to=Stage.SENT, order=order, column="stage")
    stale = await upsert_if_newer(tx, parcels, {**first, "sent_at": FIRST}, key="number", version="sent_at")
    paid = await apply_once(tx, parcels, {"fee": 5}, key=first, operation="fee-1")

    assert (late.state, later.outcome, later.state) == (Stage.DELIVERED, "ignored", Stage.DELIVERED)
    assert (stale.outcome, stale.version) == ("stale", SECOND)
    assert paid.applied


async def test_an_enum_s_states_may_be_given_by_their_names(tx: AsyncConnection) -> None:
    parcel, order = {"number": 1}, ("PACKED", "SENT", "DELIVERED")
    await insert_once(tx, parcels, {**parcel, "stage": "PACKED"}, key="number")

    async def advance(to: str) -> str:
        return (await advance_state(tx, parcels, key=parcel, to=to, order=order, column="stage")).outcome

    assert [await advance(to) for to in ("DELIVERED", "DELIVERED", "SENT")] == ["advanced", "ignored", "ignored"]


# --- every kind of transaction ---------------------------------------------------------------------------------------


async def test_a_session_sees_what_was_written_and_does_not_write_over_it(shop: RelationalStore) -> None:
    async with AsyncSession(shop.engine, expire_on_commit=False) as session, session.begin():
        session.add(Account(name="ann", cents=100))
        done = await apply_once(session, Account, {"cents": 500}, key={"name": "ann"}, operation="p-1")  # flushes
        account = await session.get_one(Account, "ann")
        assert (done.applied, account.cents) == (True, 600)

        assert (await update_if_version(session, Account, {"cents": 1}, key={"name": "ann"}, expected=1)).updated
        assert (account.cents, account.version) == (1, 2)
        account.payments += 1  # flushed with what else the object holds

    async with shop.begin() as tx:
        assert await row(tx.connection, Account.__table__, account_name="ann") == ("ann", 1, None, 1, 2)  # type: ignore[arg-type]


async def test_a_session_reads_again_what_is_stale(shop: RelationalStore) -> None:
    async with shop.begin() as tx:
        await open_account(tx.connection, version=1, payments=0)
    async with AsyncSession(shop.engine) as session:
        async with session.begin():
            account = await session.get_one(Account, "ann")
            session.expunge(account)
        async with shop.begin() as tx:
            await update_if_version(tx.connection, Account, {"cents": 7}, key={"name": "ann"}, expected=1)
        async with session.begin():
            session.add(account)  # as it was read before

            stale = await update_if_version(
                session, Account, {"cents": 1}, key={"name": "ann"}, expected=account.version
            )

            again = await session.get_one(Account, "ann")
            assert (stale.stale, again.version, again.cents) == (True, 2, 7)


@pytest.mark.parametrize("changed", ["ann", "bob"])
async def test_what_a_session_knows_of_other_rows_may_be_out_of_date(shop: RelationalStore, changed: str) -> None:
    async with shop.begin() as tx:
        for name in ("ann", "bob", "eve"):
            await insert_once(tx.connection, Account, {"name": name, "cents": 0}, key="name")
    async with AsyncSession(shop.engine) as session:
        async with session.begin():
            accounts = {name: await session.get_one(Account, name) for name in ("ann", "bob", "eve")}
        async with shop.begin() as tx:
            await tx.connection.execute(delete(Account).where(Account.name == "eve"))

        async with session.begin():
            done = await update_if_version(session, Account, {"cents": 1}, key={"name": changed}, expected=1)

            assert done.updated
            assert (accounts[changed].cents, accounts[changed].version) == (1, 2)


def test_synchronous_connections_and_sessions_need_no_await(shop: RelationalStore) -> None:
    with shop.sync_engine.begin() as connection:
        assert insert_once(connection, Account, {"name": "ann", "cents": 0}, key=Account.name).inserted
        assert apply_once(connection, Account, {"cents": 5}, key={"name": "ann"}, operation="p-1").applied
    with Session(shop.sync_engine) as session, session.begin():
        account = session.get_one(Account, "ann")
        assert apply_once(session, Account, {"cents": 5}, key={"name": "ann"}, operation="p-2").applied
        assert account.cents == 10
        assert upsert_if_newer(session, Account, {"name": "ann", "cents": 7, "version": 2}, key="name").updated
        assert advance_state(session, orders, key={"id": "o-1"}, to="paid", order=LIFE).missing
        assert (account.cents, account.version) == (7, 2)


async def test_a_key_that_names_several_rows_is_refused(tx: AsyncConnection) -> None:
    for identity in ("o-1", "o-2"):
        await insert_once(tx, orders, {"id": identity, "status": "placed", "version": 1}, key="id")

    with pytest.raises(ConfigurationError, match="names 2"):
        await advance_state(tx, orders, key={"version": 1}, to="paid", order=LIFE)


# --- retention -------------------------------------------------------------------------------------------------------


async def test_old_operations_are_purged_a_few_at_a_time(shop: RelationalStore) -> None:
    async with shop.begin() as tx:
        await open_account(tx.connection)
        for number in range(5):
            key, operation = {"name": "ann"}, f"p-{number}"
            await apply_once(tx.connection, Account, {"cents": 1}, key=key, operation=operation, scope=f"s{number % 2}")

    assert await shop.run(shop.operations.purge(timedelta(minutes=5), limit=100)) == 0
    removed: list[int] = []

    async def all_are_gone() -> bool:
        removed.append(await shop.run(shop.operations.purge(timedelta(0), limit=2)))
        return sum(removed) == 5

    await wait_until(all_are_gone)
    assert max(removed) == 2
