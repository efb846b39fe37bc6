"""The tables are the sum of the migrations, whoever applies them, in whatever way and how many at once."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, inspect, text

from pillarbox.errors import SchemaVersionError
from pillarbox.relational import CURRENT_VERSION, MIGRATIONS, metadata

if TYPE_CHECKING:
    from pillarbox.relational import RelationalStore
    from tests.migration.conftest import OpenStore
    from tests.servers import PostgresServer

pytestmark = pytest.mark.filterwarnings("ignore:Did not recognize type 'xid8'")
TABLES = sorted(metadata.tables)
APART = {"pillarbox_outbox_default", "pillarbox_key_locks"}
"""Tables that one kind of database has besides those of all: a partition, the rows that serve as key locks."""
NOTED = text("SELECT version FROM pillarbox_schema_version")


def _described(connection: Connection) -> dict[str, Any]:
    """What the database itself says about its tables."""
    database = inspect(connection)
    return {
        name: {
            "columns": [
                (column["name"], str(column["type"]), column["nullable"], column.get("identity"), column["default"])
                for column in database.get_columns(name)
            ],
            "primary key": database.get_pk_constraint(name)["constrained_columns"],
            "unique": sorted(sorted(one["column_names"]) for one in database.get_unique_constraints(name)),
            "checks": sorted(str(one["sqltext"]) for one in database.get_check_constraints(name)),
            "indexes": sorted((str(one["name"]), one["column_names"]) for one in database.get_indexes(name)),
        }
        for name in sorted(database.get_table_names())
        if name not in APART
    }


async def _describe(store: RelationalStore) -> dict[str, Any]:
    async with store.begin() as tx:
        return await tx.connection.run_sync(_described)


async def _noted(store: RelationalStore) -> list[int]:
    async with store.begin() as tx:
        return [row[0] for row in await tx.connection.execute(NOTED)]


def test_migrations_are_numbered_without_holes_from_1() -> None:
    assert [migration.version for migration in MIGRATIONS] == list(range(1, CURRENT_VERSION + 1))


def test_every_table_belongs_to_one_migration() -> None:
    assert sorted(table.name for migration in MIGRATIONS for table in migration.tables) == TABLES


async def test_the_migrated_database_has_the_columns_that_the_statements_name(store: RelationalStore) -> None:
    found = await _describe(store)

    assert {name: [column[0] for column in table["columns"]] for name, table in found.items()} == {
        name: [column.name for column in metadata.tables[name].columns] for name in TABLES
    }
    assert {name: sorted(index for index, _ in table["indexes"]) for name, table in found.items()} == {
        name: sorted(
            [
                str(index.name)
                for index in metadata.tables[name].indexes
                if index.info.get("dialect", store.engine.dialect.name) == store.engine.dialect.name
            ]
            + [
                str(one.name)
                for one in metadata.tables[name].constraints
                if one.__visit_name__ == "unique_constraint" and store.name != "SQLite"  # shown as an index too
            ]
        )
        for name in TABLES
    }


async def test_the_migrated_database_is_the_one_that_the_tables_describe(open_store: OpenStore) -> None:
    store = open_store()
    await store.migrate()
    migrated = await _describe(store)

    async with store.engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)

    assert await _describe(store) == migrated


async def test_migrating_again_does_nothing(store: RelationalStore) -> None:
    assert await store.migrate() == ()
    assert await _noted(store) == [migration.version for migration in MIGRATIONS]


@pytest.mark.parametrize("version", range(1, CURRENT_VERSION))
async def test_a_database_of_an_earlier_version_is_brought_to_this_one(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    store = open_store()
    with monkeypatch.context() as earlier:
        earlier.setattr("pillarbox.relational.migrations.MIGRATIONS", MIGRATIONS[:version])
        await store.migrate()
    await store.run(store.inbox.record("shop/one", ["m1"]))
    with pytest.raises(SchemaVersionError):
        await store.check_schema()

    assert await store.migrate() == MIGRATIONS[version:]

    await store.check_schema()
    assert await store.run(store.inbox.record("shop/one", ["m1"])) == frozenset()
    migrated = await _describe(store)
    assert list(migrated) == TABLES
    async with store.engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)
    assert await _describe(store) == migrated


async def test_of_five_migrations_at_once_one_does_the_work(open_store: OpenStore) -> None:
    stores = [open_store() for _ in range(5)]

    async with asyncio.TaskGroup() as tasks:
        runs = [tasks.create_task(store.migrate()) for store in stores]

    assert sorted(len(run.result()) for run in runs) == [0, 0, 0, 0, len(MIGRATIONS)]
    assert await _noted(stores[0]) == [migration.version for migration in MIGRATIONS]
    for store in stores:
        await store.check_schema()


async def test_a_migration_that_fails_leaves_nothing_behind(open_store: OpenStore) -> None:
    store = open_store()
    async with store.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE pillarbox_queue (wrong INTEGER)"))  # its index cannot be made

    with pytest.raises(Exception, match=r"pillarbox_queue|consumer"):
        await store.migrate()

    if store.name == "MariaDB":  # where each CREATE commits by itself
        await _goes_on_once_the_cause_is_removed(store)
        return
    assert list(await _describe(store)) == ["pillarbox_queue"]


async def _goes_on_once_the_cause_is_removed(store: RelationalStore) -> None:
    with pytest.raises(SchemaVersionError):
        await store.check_schema()
    async with store.engine.begin() as connection:
        await connection.execute(text("DROP TABLE pillarbox_queue"))

    assert await store.migrate() == MIGRATIONS
    await store.check_schema()
    assert list(await _describe(store)) == TABLES


# --- scripts for people who apply their own --------------------------------------------------------------------------


def _apply(store: RelationalStore, request: pytest.FixtureRequest) -> None:
    script = store.migration_sql()
    url = store.engine.url
    assert url.database is not None
    if store.name == "SQLite":
        connection = sqlite3.connect(url.database)
        connection.executescript(script)
        connection.close()
    elif store.name == "MariaDB":
        request.getfixturevalue("mariadb_server").execute(script, database=url.database)
    else:
        server: PostgresServer = request.getfixturevalue("postgresql_server")
        server.execute(script, database=url.database)


async def test_the_script_makes_the_same_schema(open_store: OpenStore, request: pytest.FixtureRequest) -> None:
    store = open_store()
    _apply(store, request)
    scripted = await _describe(store)
    await store.check_schema()
    assert await store.migrate() == ()

    async with store.engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
    await store.migrate()

    assert await _describe(store) == scripted


async def test_the_script_can_be_applied_twice(open_store: OpenStore, request: pytest.FixtureRequest) -> None:
    store = open_store()
    _apply(store, request)
    _apply(store, request)

    assert await _noted(store) == [migration.version for migration in MIGRATIONS]


async def test_the_script_can_be_applied_to_a_migrated_database(
    store: RelationalStore, request: pytest.FixtureRequest
) -> None:
    _apply(store, request)

    assert await _noted(store) == [migration.version for migration in MIGRATIONS]


# --- the check at start ----------------------------------------------------------------------------------------------


async def test_a_migrated_database_passes_the_check(store: RelationalStore) -> None:
    await store.check_schema()


async def test_an_empty_database_fails_the_check(open_store: OpenStore) -> None:
    store = open_store()

    with pytest.raises(SchemaVersionError) as caught:
        await store.check_schema()

    assert (caught.value.found, caught.value.expected) == (None, CURRENT_VERSION)
    await store.migrate()
    await store.check_schema()


async def test_tables_without_a_noted_version_fail_the_check(store: RelationalStore) -> None:
    async with store.begin() as tx:
        await tx.connection.execute(text("DELETE FROM pillarbox_schema_version"))

    with pytest.raises(SchemaVersionError) as caught:
        await store.check_schema()

    assert caught.value.found is None


async def test_the_schema_of_a_later_release_fails_the_check(store: RelationalStore) -> None:
    later = CURRENT_VERSION + 1
    async with store.begin() as tx:
        await tx.connection.execute(text(f"INSERT INTO pillarbox_schema_version VALUES ({later}, 0)"))

    with pytest.raises(SchemaVersionError) as caught:
        await store.check_schema()

    assert (caught.value.found, caught.value.expected) == (later, CURRENT_VERSION)
    assert await store.migrate() == ()
