"""The stores under contract: memory, a SQLite file, PostgreSQL by either driver, MariaDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, text

from pillarbox.app.controlling import ports_of
from pillarbox.relational import RelationalStore, metadata
from pillarbox.relational.kept import StoreKept
from pillarbox.stores.mysql import mysql_store
from pillarbox.stores.postgresql import postgresql_store
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.testing.contracts import StoreHarness
from tests.contract.shop_tables import tables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STORES = [
    "memory",
    "sqlite",
    pytest.param("postgresql+psycopg", marks=pytest.mark.server),
    pytest.param("postgresql+asyncpg", marks=pytest.mark.server),
    pytest.param("mariadb+asyncmy", marks=pytest.mark.server),
]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[RelationalStore]:
    """An open store with its tables, and nothing in them."""
    made = _store(request)
    await made.migrate()
    if made.name in ("PostgreSQL", "MariaDB"):
        await _empty(made)  # the tests of a module share a database
    yield made
    await made.close()


@pytest.fixture
async def shop(store: RelationalStore) -> AsyncIterator[RelationalStore]:
    """The store, with empty tables of a user beside its own."""
    async with store.begin() as tx:
        await tx.connection.run_sync(tables.drop_all)
        await tx.connection.run_sync(tables.create_all)
    yield store
    async with store.begin() as tx:
        await tx.connection.run_sync(tables.drop_all)


@pytest.fixture
def harness(store: RelationalStore) -> StoreHarness:
    """The store as the contracts want it."""
    return StoreHarness(
        source=store,
        outbox=store.outbox,
        slots=store.slots,
        transfer=store.transfer,
        parked=store.parked,
        held_records=store.held_records,
        published=store.published,
        sequence=store.traits.sequence,
        marks=store.marks,
        leases=store.leases,
        queue=store.queue,
        inbox=store.inbox,
        attempts=store.attempts,
        claims=store.claims,
        calls=store.calls,
        holding=store.holding,
        held_queue=store.holding,
        waits=store.waits,
        dead_letters=store.dead_letters,
        operators=ports_of(store),
        batches=store.operators.batches,
        inspection=store.inspection,
        circuits=store.circuits,
        flows=store.flows,
        consumers=store.consumers,
        numbers=store.numbers,
        positions=store.positions,
        gaps=store.gaps,
        skipped=store.skipped,
        kept=StoreKept(store),
        sagas=store.sagas,
        saga_archive=store.saga_archive,
        participations=store.participations,
        saga_locks=store.saga_locks,
        concurrent_writers=not store.traits.single_writer,
    )


def _store(request: pytest.FixtureRequest) -> RelationalStore:
    match request.param:
        case "memory":
            return sqlite_store(make_url("sqlite://"))
        case "sqlite":
            return sqlite_store(make_url(request.getfixturevalue("sqlite_url")))
        case "mariadb+asyncmy":
            url = make_url(request.getfixturevalue("mariadb_module_url"))
            return mysql_store(url.set(drivername=request.param))
        case driver:
            url = make_url(request.getfixturevalue("postgresql_module_url"))
            return postgresql_store(url.set(drivername=driver))


async def _empty(store: RelationalStore) -> None:
    """Delete every row; most tables have none, and are not touched."""
    names = [table.name for table in metadata.sorted_tables if table.name != "pillarbox_schema_version"]
    full = (f"SELECT '{name}' FROM (SELECT 1) AS always WHERE EXISTS (SELECT 1 FROM {name})" for name in names)
    async with store.begin() as tx:
        for name in (await tx.connection.execute(text(" UNION ALL ".join(full)))).scalars().all():
            await tx.connection.execute(text(f"DELETE FROM {name}"))
