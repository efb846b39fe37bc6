"""How idempotent operations type, in transactions of both colours; checked, never run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, assert_type

import aiosqlite
import psycopg
from sqlalchemy import Connection, Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session

from pillarbox import Context, Pillarbox
from pillarbox.idempotency import (
    Application,
    Insertion,
    StateAdvance,
    StateMachine,
    VersionedWrite,
    advance_state,
    apply_once,
    call_once,
    insert_once,
    update_if_version,
    upsert_if_newer,
)


class Base(DeclarativeBase): ...


class Account(Base):
    __tablename__ = "accounts"
    name: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]


@dataclass(frozen=True)
class Receipt:
    number: str


class DeclinedError(Exception): ...


async def awaited_transactions_are_awaited(
    connection: AsyncConnection, session: AsyncSession, scoped: async_scoped_session[AsyncSession], table: Table
) -> None:
    if (await insert_once(connection, table, {"id": "o-1"}, key="id")).inserted:
        pass
    assert_type(await insert_once(connection, table, {"id": "o-1"}, key=("id", table.c.kind)), Insertion)
    assert_type(await insert_once(session, Account, {"name": "ann"}, key=Account.name), Insertion)
    assert_type(await upsert_if_newer(scoped, Account, {"name": "ann"}, key="name"), VersionedWrite)
    assert_type(await update_if_version(session, Account, {}, key={"name": "ann"}, expected=3), VersionedWrite)
    assert_type(await apply_once(session, Account, {"cents": 5}, key={"name": "ann"}, operation="m-1"), Application)
    done = await advance_state(connection, table, key={"id": "o-1"}, to="paid", order=("placed", "paid"))
    assert_type(done, StateAdvance)
    assert_type(done.ignored, bool)


def other_transactions_are_not(connection: Connection, session: Session, scoped: scoped_session[Session]) -> None:
    assert_type(insert_once(connection, Account, {"name": "ann"}, key="name").inserted, bool)
    assert_type(upsert_if_newer(session, Account, {"name": "ann"}, key="name").stale, bool)
    assert_type(update_if_version(scoped, Account, {}, key={"name": "ann"}, expected=3).missing, bool)
    amount = Decimal("0.05")
    assert_type(apply_once(session, Account, {"cents": amount}, key={"name": "a"}, operation="m-1").duplicate, bool)
    apply_once(session, Account, {"cents": 0.5}, key={"name": "a"}, operation="m-1")  # type: ignore[dict-item]
    machine = StateMachine({"placed": ("paid",), "paid": ()})
    assert_type(advance_state(session, Account, key={"name": "a"}, to="paid", order=machine), StateAdvance)


async def bare_drivers_serve_too(asynchronous: aiosqlite.Connection, synchronous: psycopg.Connection) -> None:
    assert_type(await insert_once(asynchronous, Account, {"name": "ann"}, key="name"), Insertion)
    assert_type(insert_once(synchronous, Account, {"name": "ann"}, key="name"), Insertion)


async def charge(key: str) -> Receipt:
    return Receipt(key)


async def calls_return_what_they_are_declared_to(ctx: Context, box: Pillarbox) -> None:
    day = timedelta(hours=24)
    receipt = await call_once(ctx, "card", charge, answer=Receipt, remembered_for=day, failed=(DeclinedError,))
    assert_type(receipt, Receipt)
    assert_type(await call_once(ctx, "card", lambda key: charge(key), answer=Receipt, remembered_for=None), Receipt)
    assert_type(await call_once(ctx, "card", charge, remembered_for=day), Any)
    await call_once(ctx, "card", charge)  # type: ignore[call-overload]
    for doubtful in await box.calls.in_doubt():
        assert_type(doubtful.key, str)
        assert_type(doubtful.age, timedelta)
