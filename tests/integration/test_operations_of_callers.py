"""Idempotent operations in the caller's own transaction, on every kind of connection."""

from __future__ import annotations

import inspect
import sqlite3
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import BigInteger, Column, MetaData, String, Table, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from pillarbox.idempotency import advance_state, apply_once, insert_once, update_if_version, upsert_if_newer
from pillarbox.relational.tables import applied_operations
from tests.integration.callers import ON_POSTGRESQL, ON_SQLITE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.integration.callers import Caller

orders = Table(
    "orders",
    MetaData(),
    Column("id", String(20), primary_key=True),
    Column("status", String(20)),
    Column("cents", BigInteger),
    Column("version", BigInteger),
)
LIFE = ("placed", "paid", "shipped")
FIRST = {"id": "o-1"}


@pytest.fixture(params=[*(f"sqlite:{name}" for name in ON_SQLITE), *(f"postgresql:{name}" for name in ON_POSTGRESQL)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def caller(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Caller]:
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    database, name = kind.split(":")
    url = str(request.getfixturevalue("postgresql_module_url" if database == "postgresql" else "sqlite_url"))
    create = [CreateTable(orders), CreateTable(applied_operations)]
    if database == "sqlite":
        connection: Any = sqlite3.connect(make_url(url).database or "")
        dialect: Any = sqlite.dialect()
    else:
        connection = psycopg.connect(url, autocommit=True)
        dialect = postgresql.dialect()
    for table in (orders, applied_operations):
        connection.execute(f"DROP TABLE IF EXISTS {table.name}")
    for statement in create:
        connection.execute(str(statement.compile(dialect=dialect)))
    connection.commit()
    connection.close()
    async with (ON_SQLITE if database == "sqlite" else ON_POSTGRESQL)[name](url) as opened:
        yield opened


async def done(outcome: Any) -> Any:
    return await outcome if inspect.isawaitable(outcome) else outcome


async def test_every_kind_of_transaction_serves(caller: Caller) -> None:
    tx, row = caller.tx, {**FIRST, "status": "placed", "cents": 1, "version": 1}
    await caller.own("begin")

    assert (await done(insert_once(tx, orders, row, key="id"))).inserted
    assert not (await done(insert_once(tx, orders, row, key="id"))).inserted
    assert (await done(upsert_if_newer(tx, orders, {**row, "version": 2}, key="id"))).updated
    assert (await done(upsert_if_newer(tx, orders, row, key="id"))).stale
    assert (await done(update_if_version(tx, orders, {"cents": 5}, key=FIRST, expected=2))).version == 3
    assert (await done(update_if_version(tx, orders, {"cents": 6}, key=FIRST, expected=2))).version == 3
    for outcome in ("applied", "duplicate"):
        assert await done(apply_once(tx, orders, {"cents": 37}, key=FIRST, operation="p-1")) == outcome
    assert (await done(apply_once(tx, orders, {"cents": 37}, key={"id": "o-2"}, operation="p-2"))).missing
    assert (await done(advance_state(tx, orders, key=FIRST, to="shipped", order=LIFE))).advanced
    assert (await done(advance_state(tx, orders, key=FIRST, to="paid", order=LIFE))).ignored
    await caller.own("commit")

    await caller.own("begin")
    assert (await done(update_if_version(tx, orders, {"cents": 42}, key=FIRST, expected=3))).updated
    await caller.own("rollback")
