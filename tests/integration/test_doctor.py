"""``pillarbox doctor`` on real databases: each thing that is amiss is found, and named so that it can be mended."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from pillarbox import Pillarbox, Settings
from pillarbox.app.diagnosing import doctor_of
from pillarbox.app.places import store_at
from pillarbox.cli import commands
from pillarbox.control.diagnosis import DiagnosisLimits, Finding, Severity
from pillarbox.relay import LogSettings, RelaySettings
from tests.integration.boxes import OrderPlaced
from tests.integration.log_boxes import LogScene
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.servers import PgBouncerServer, PostgresServer

IMPATIENT = DiagnosisLimits(oldest_transaction=timedelta(0))


async def examine(
    url: str, limits: DiagnosisLimits | None = None, *, deep: bool = False
) -> dict[tuple[str, str], Finding]:
    """The findings by code and subject."""
    store = store_at(url)
    try:
        found = await doctor_of(store, limits or DiagnosisLimits()).examine(deep=deep)
    finally:
        await store.close()
    return {(one.code, one.subject): one for one in found.findings}


@asynccontextmanager
async def migrated(url: str) -> AsyncIterator[Pillarbox]:
    box = Pillarbox("shop", store=url, settings=Settings(migrate_on_open=True))
    async with box:
        yield box


@pytest.fixture
async def shop_url(postgresql_url: str) -> str:
    """A PostgreSQL database with our tables."""
    async with migrated(postgresql_url):
        return postgresql_url


def database_of(url: str) -> str:
    return url.rpartition("/")[2]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_a_sound_database_has_no_finding_worse_than_a_notice_about_ours(shop_url: str, driver: str) -> None:
    found = await examine(shop_url.replace("://", f"+{driver}://", 1))

    of_the_cluster = {"old-transaction", "slot-inactive", "slot-keep-size"}  # other tests run on it
    bad = [one for one in found.values() if one.severity in {Severity.WARNING, Severity.ERROR}]
    assert [one for one in bad if one.code not in of_the_cluster] == []
    assert {one.code for one in found.values()} >= {"fsync", "schema-version", "identity-cache", "lock-table", "pooler"}


async def test_a_database_without_our_tables_is_an_error(postgresql_url: str) -> None:
    found = await examine(postgresql_url)

    assert found["schema-version", "schema"].severity is Severity.ERROR
    assert "pillarbox migrate" in found["schema-version", "schema"].do


async def test_synchronous_commit_off_for_the_database_is_found(
    shop_url: str, postgresql_server: PostgresServer
) -> None:
    postgresql_server.execute(f'ALTER DATABASE "{database_of(shop_url)}" SET synchronous_commit = off')

    found = await examine(shop_url)

    assert found["synchronous-commit", "synchronous_commit"].severity is Severity.WARNING


async def test_an_idle_session_in_a_transaction_is_named_by_its_pid_and_its_query(shop_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(shop_url) as forgotten:
        await forgotten.execute("INSERT INTO pillarbox_outbox_holds VALUES ('topic:order', 'forgotten-by-me', 0)")

        found = await examine(shop_url, IMPATIENT)
        patient = await examine(shop_url, DiagnosisLimits(oldest_transaction=timedelta(hours=1)))

        finding = found["old-transaction", f"pid {forgotten.info.backend_pid}"]
        assert finding.severity is Severity.WARNING
        assert "forgotten-by-me" in finding.what
        assert "idle in transaction" in finding.what
        assert f"pg_terminate_backend({forgotten.info.backend_pid})" in finding.do
        assert ("old-transaction", f"pid {forgotten.info.backend_pid}") not in patient
        await forgotten.rollback()


async def test_a_user_who_may_not_see_sessions_is_told_so(shop_url: str, postgresql_server: PostgresServer) -> None:
    role = f"service_of_{database_of(shop_url)}"
    postgresql_server.execute(
        f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
        database=database_of(shop_url),
    )
    async with await psycopg.AsyncConnection.connect(shop_url) as forgotten:
        await forgotten.execute("INSERT INTO pillarbox_outbox_holds VALUES ('topic:order', 'forgotten', 0)")

        found = await examine(str(make_url(shop_url).set(username=role)), IMPATIENT)

        assert found["rights", "user"].severity is Severity.NOTICE
        assert "forgotten" not in str(found)
        await forgotten.rollback()
    postgresql_server.execute(f"DROP OWNED BY {role}; DROP ROLE {role}", database=database_of(shop_url))


async def test_an_engine_of_the_callers_is_used_as_it_is(shop_url: str) -> None:
    parts = make_url(shop_url)
    address = {"host": parts.host, "port": parts.port, "user": parts.username, "dbname": parts.database}
    engine = create_async_engine("postgresql+psycopg://", connect_args=address)  # its URL alone leads nowhere
    findings = await doctor_of(store_at(engine), DiagnosisLimits()).examine()
    await engine.dispose()

    assert "schema-version" in {one.code for one in findings.findings if one.severity is Severity.OK}


@pytest.mark.parametrize("table", ["pillarbox_outbox", "pillarbox_queue"])
async def test_an_identity_that_is_cached_is_an_error(
    shop_url: str, table: str, postgresql_server: PostgresServer
) -> None:
    postgresql_server.execute(f"ALTER TABLE {table} ALTER COLUMN position SET CACHE 20", database=database_of(shop_url))

    found = await examine(shop_url)

    assert found["identity-cache", table].severity is Severity.ERROR
    postgresql_server.execute(found["identity-cache", table].do.partition(",")[0], database=database_of(shop_url))
    assert ("identity-cache", table) not in await examine(shop_url)


async def test_a_dropped_index_table_and_column_are_found(shop_url: str, postgresql_server: PostgresServer) -> None:
    postgresql_server.execute(
        "DROP INDEX pillarbox_queue_mailbox; DROP TABLE pillarbox_claims;ALTER TABLE pillarbox_holds DROP COLUMN since",
        database=database_of(shop_url),
    )

    found = await examine(shop_url)

    assert "pillarbox_queue_mailbox" in found["missing-index", "pillarbox_queue"].what
    assert found["missing-table", "pillarbox_claims"].severity is Severity.ERROR
    assert "since" in found["missing-column", "pillarbox_holds"].what


async def test_a_slot_of_ours_that_nobody_reads_is_found(shop_url: str, postgresql_server: PostgresServer) -> None:
    slot = f"pillarbox_{database_of(shop_url)}"
    postgresql_server.execute(
        f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')", database=database_of(shop_url)
    )

    found = await examine(shop_url)

    assert found["slot-inactive", f"slot {slot}"].severity is Severity.WARNING
    assert found["slot-keep-size", "max_slot_wal_keep_size"].severity is Severity.WARNING


async def test_the_slot_of_a_log_tailing_relay_is_known_whatever_its_name(
    postgresql_server: PostgresServer, postgresql_url: str
) -> None:
    relay = RelaySettings(kind="log", log=LogSettings(slot="shop_outbox"))
    scene = LogScene(postgresql_server, postgresql_url, settings=relay)
    async with scene.relaying():
        await wait_until(lambda: scene.slots() == [["shop_outbox", "t"]])
        await wait_until(lambda: scene.scalar("SELECT count(*) FROM pillarbox_outbox_checkpoint") == "1")
    await wait_until(lambda: scene.slots() == [["shop_outbox", "f"]])

    unread = (await examine(postgresql_url))["slot-inactive", "slot shop_outbox"]
    scene.sql("SELECT pg_drop_replication_slot('shop_outbox')")
    gone = (await examine(postgresql_url))["slot-lost", "slot shop_outbox"]

    assert "not one of ours" not in unread.what
    assert gone.severity is Severity.ERROR
    await scene.close()


async def test_a_default_partition_beside_which_none_is_made_is_found_and_can_be_mended(
    shop_url: str, postgresql_server: PostgresServer
) -> None:
    def execute(statement: str) -> None:
        postgresql_server.execute(statement, database=database_of(shop_url))

    execute("INSERT INTO pillarbox_outbox_cursor VALUES ('outbox', '1:1:', '1:1:', 0, 0, 'x', 0)")
    execute(
        "INSERT INTO pillarbox_outbox (id, aggregate_type, aggregate_id, event_type, payload, content_type, headers,"
        " destination, message_key, slot, created_at) SELECT 'm' || n, 'order', 'k', 'order.placed',"
        " CAST(repeat('x', 1900) AS bytea), 'application/json', '{}', 'topic:order', 'k', 0, n"
        " FROM generate_series(1, 36000) AS n"
    )
    execute("DELETE FROM pillarbox_outbox WHERE position < 36000")
    found = await examine(shop_url)
    store = store_at(shop_url)
    partitions = store.traits.partitions
    assert partitions is not None
    is_made = [await store.run(partitions.extend(10_000))]
    execute("VACUUM FULL pillarbox_outbox_default")
    is_made.append(await store.run(partitions.extend(10_000)))
    await store.close()

    assert found["partitions", "pillarbox_outbox_default"].severity is Severity.WARNING
    assert is_made == [False, True]
    assert ("partitions", "pillarbox_outbox_default") not in await examine(shop_url)


@pytest.mark.parametrize("spelled", ["false", "no", "'OFF'"])
async def test_a_table_that_is_not_vacuumed_is_found(
    shop_url: str, postgresql_server: PostgresServer, spelled: str
) -> None:
    statement = f"ALTER TABLE pillarbox_inbox SET (autovacuum_enabled = {spelled})"
    postgresql_server.execute(statement, database=database_of(shop_url))
    found = await examine(shop_url)

    advice = found["table-autovacuum", "pillarbox_inbox"].do
    postgresql_server.execute(advice, database=database_of(shop_url))
    assert ("table-autovacuum", "pillarbox_inbox") not in await examine(shop_url)


async def test_the_advice_about_an_invalid_index_mends_it(shop_url: str, postgresql_server: PostgresServer) -> None:
    """What failed to be made concurrently is there, and made again only once it is dropped."""
    database, index = database_of(shop_url), "pillarbox_queue_mailbox"
    invalid = f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = CAST('{index}' AS regclass)"
    postgresql_server.execute(invalid, database=database)
    found = await examine(shop_url)
    script = CliRunner().invoke(commands, ["migrate", "--store", shop_url, "--sql"]).stdout
    (again,) = [line for line in script.splitlines() if f" {index} " in line]

    assert "drop it" in found["missing-index", "pillarbox_queue"].do
    postgresql_server.execute(f"DROP INDEX {index}", database=database)
    postgresql_server.execute(again, database=database)
    assert ("missing-index", "pillarbox_queue") not in await examine(shop_url)


async def test_a_table_full_of_dead_rows_is_found(shop_url: str, postgresql_server: PostgresServer) -> None:
    postgresql_server.execute(
        "ALTER TABLE pillarbox_outbox_holds SET (autovacuum_enabled = false);"
        "INSERT INTO pillarbox_outbox_holds SELECT 'topic:order', n, 0 FROM generate_series(1, 500) n;"
        "DELETE FROM pillarbox_outbox_holds WHERE message_key <> '1';",
        database=database_of(shop_url),
    )
    found = dict[tuple[str, str], Finding]()

    async def is_counted() -> bool:  # the server's counters lag
        found.update(await examine(shop_url, DiagnosisLimits(dead_rows=400)))
        return ("dead-rows", "pillarbox_outbox_holds") in found

    await wait_until(is_counted, timedelta(seconds=20))

    assert "499 dead rows" in found["dead-rows", "pillarbox_outbox_holds"].what
    assert found["table-autovacuum", "pillarbox_outbox_holds"].severity is Severity.WARNING


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_a_pooler_in_transaction_mode_is_found(
    shop_url: str, driver: str, pgbouncer_server: PgBouncerServer
) -> None:
    through = pgbouncer_server.url_of(shop_url).replace("://", f"+{driver}://", 1)

    found = await examine(through)

    assert found["pooler", "connection"].severity is Severity.WARNING
    assert (await examine(shop_url))["pooler", "connection"].severity is Severity.OK


async def test_a_sqlite_file_is_examined(sqlite_url: str) -> None:
    async with migrated(sqlite_url) as box, box.transaction() as tx:
        await box.publish(OrderPlaced("o-1"), tx=tx)

    found = await examine(sqlite_url, deep=True)

    errors = [one for one in found.values() if one.severity is Severity.ERROR]
    assert errors == []
    assert found["integrity", "file"].severity is Severity.OK
    assert found["journal-mode", "journal_mode"].severity is Severity.OK
    assert found["synchronous", "synchronous"].severity is Severity.OK


async def test_a_mariadb_server_is_examined(mariadb_url: str) -> None:
    async with migrated(mariadb_url):
        found = await examine(mariadb_url)

    bad = [one for one in found.values() if one.severity in {Severity.WARNING, Severity.ERROR}]
    assert bad == []
    assert {one.code for one in found.values()} >= {"version", "flush-log", "isolation", "sql-mode", "collation"}


async def test_what_a_mariadb_server_gives_your_own_sessions_is_found(mariadb_url: str) -> None:
    """The store's sessions set both for themselves; the server's defaults are those of the tests' servers."""
    async with migrated(mariadb_url):
        found = await examine(mariadb_url)

    isolation = found["isolation", "transaction isolation"]
    assert (isolation.severity, isolation.what) == (Severity.NOTICE, "REPEATABLE-READ")
    assert found["snapshot-isolation", "innodb_snapshot_isolation"].severity is Severity.NOTICE


@pytest.mark.parametrize("collation", ["utf8mb4_general_ci", "utf8mb4_bin"])
async def test_a_folding_collation_in_mariadb_is_an_error(mariadb_url: str, collation: str) -> None:
    async with migrated(mariadb_url) as box:
        change = f"ALTER TABLE pillarbox_inbox MODIFY message_id VARCHAR(200) COLLATE {collation} NOT NULL"
        async with box.transaction() as tx:
            await tx.execute(text(change))
        found = await examine(mariadb_url)

    (folding,) = [one for one in found.values() if one.code == "collation"]
    assert folding.severity is Severity.ERROR
    assert "pillarbox_inbox.message_id" in folding.what
    assert "utf8mb4_nopad_bin" in folding.do


async def test_tables_of_mariadb_that_do_not_lock_are_errors_and_can_be_mended(mariadb_url: str) -> None:
    async with migrated(mariadb_url) as box:
        async with box.transaction() as tx:
            await tx.execute(text("DELETE FROM pillarbox_key_locks WHERE bucket = 7"))
            await tx.execute(text("ALTER TABLE pillarbox_outbox ENGINE = MyISAM"))
        broken = await examine(mariadb_url)
        async with box.transaction() as tx:
            await tx.execute(text("ALTER TABLE pillarbox_outbox ENGINE = InnoDB"))
        await box.migrate()
        mended = await examine(mariadb_url)

    assert "pillarbox_outbox (MyISAM)" in broken["engine", "our tables"].what
    assert broken["key-locks", "pillarbox_key_locks"].severity is Severity.ERROR
    assert mended["engine", "our tables"].severity is Severity.OK
    assert mended["key-locks", "pillarbox_key_locks"].severity is Severity.OK


async def test_a_sqlite_file_with_rowids_used_again_is_an_error(sqlite_url: str) -> None:
    async with migrated(sqlite_url) as box, box.transaction() as tx:
        sql = str(
            (await tx.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'pillarbox_queue'")).scalar_one()
        )
        await tx.exec_driver_sql("DROP TABLE pillarbox_queue")
        await tx.exec_driver_sql(sql.replace("AUTOINCREMENT", ""))

    found = await examine(sqlite_url)

    assert found["autoincrement", "pillarbox_queue"].severity is Severity.ERROR
    assert "pillarbox_queue_mailbox" in found["missing-index", "pillarbox_queue"].what


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(commands, ["doctor", *arguments], prog_name="pillarbox")
    return done.exit_code, done.stdout


def test_the_command_tells_programs_and_people_and_exits_by_the_worst(
    postgresql_url: str, postgresql_server: PostgresServer
) -> None:
    url = postgresql_url.replace("@", ":s3cret@")
    empty, told_of_empty = run("--store", url, "--json")
    CliRunner().invoke(commands, ["migrate", "--store", url])
    postgresql_server.execute(f'ALTER DATABASE "{database_of(postgresql_url)}" SET synchronous_commit = off')

    lenient, told = run("--store", url)
    strict, told_as_json = run("--store", url, "--strict", "--json")

    report: dict[str, Any] = json.loads(told_as_json)
    assert (empty, lenient, strict) == (1, 0, 1)
    assert json.loads(told_of_empty)["worst"] == "error"
    assert report["worst"] == "warning"
    assert {"code", "severity", "subject", "what", "means", "do"} == set(report["findings"][0])
    assert "synchronous_commit: off" in told
    assert "it means:" in told
    assert "to do:" in told
    assert "s3cret" not in told + told_as_json + told_of_empty
