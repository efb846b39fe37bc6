"""What the doctor says about facts of a PostgreSQL."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pillarbox.control.diagnosis import DiagnosisLimits, Finding, Severity
from pillarbox.relational import CURRENT_VERSION, metadata
from pillarbox.relational.shape import SchemaFacts
from pillarbox.stores.postgresql.facts import OldTransaction, PostgresFacts, SlotFacts, TableFacts
from pillarbox.stores.postgresql.judgement import LONGEST_QUERY, judge_postgresql

LIMITS = DiagnosisLimits()
WHOLE = SchemaFacts(
    version=CURRENT_VERSION,
    columns={table.name: {column.name for column in table.columns} for table in metadata.sorted_tables},
    indexes=frozenset(str(index.name) for table in metadata.sorted_tables for index in table.indexes),
)
SOUND = PostgresFacts(
    version=150004,
    in_recovery=False,
    settings={
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "synchronous_standby_names": "",
        "wal_level": "logical",
        "max_slot_wal_keep_size": "50GB",
        "max_locks_per_transaction": "64",
        "max_connections": "100",
        "max_prepared_transactions": "0",
        "autovacuum": "on",
        "hot_standby_feedback": "off",
    },
    schema=WHOLE,
    identities={"pillarbox_outbox": 1, "pillarbox_queue": 1},
    tables=[
        TableFacts(name="pillarbox_outbox_default", live=9, dead=3, vacuumed_ago=timedelta(minutes=1), autovacuum=True)
    ],
    old_transactions=[],
    slots=[],
    missing_slot=None,
    default_bytes=0,
    relays=2,
    sees_sessions=True,
    pooled=False,
)
SLOT = SlotFacts(name="pillarbox_log", ours=True, active=True, status="reserved", retained_bytes=1 << 20)
SESSION = OldTransaction(
    kind="session",
    name="4711",
    open_for=timedelta(minutes=9),
    holds_back=1200,
    database="shop",
    state="idle in transaction",
    user="analyst",
    application="psql",
    query="SELECT\n  count(*) FROM orders",
)


def bad(facts: PostgresFacts, limits: DiagnosisLimits = LIMITS) -> list[Finding]:
    return [one for one in judge_postgresql(facts, limits) if one.severity is not Severity.OK]


def the_one(facts: PostgresFacts) -> Finding:
    (finding,) = bad(facts)
    assert finding.means
    assert finding.do
    return finding


def with_settings(**settings: str) -> PostgresFacts:
    return replace(SOUND, settings={**SOUND.settings, **settings})


def test_a_sound_server_has_nothing_amiss_and_every_check_says_so() -> None:
    found = judge_postgresql(SOUND, LIMITS)

    assert {one.severity for one in found} == {Severity.OK}
    assert len(found) >= 14


@pytest.mark.parametrize(
    ("settings", "code", "severity"),
    [
        ({"fsync": "off"}, "fsync", Severity.ERROR),
        ({"full_page_writes": "off"}, "full-page-writes", Severity.ERROR),
        ({"synchronous_commit": "off"}, "synchronous-commit", Severity.WARNING),
        (
            {"synchronous_commit": "local", "synchronous_standby_names": "one"},
            "synchronous-commit",
            Severity.WARNING,
        ),
        ({"wal_level": "replica"}, "wal-level", Severity.NOTICE),
        ({"autovacuum": "off"}, "autovacuum", Severity.WARNING),
        ({"max_locks_per_transaction": "10"}, "lock-table", Severity.ERROR),
        ({"max_locks_per_transaction": "20"}, "lock-table", Severity.WARNING),
    ],
)
def test_a_setting_that_endangers_messages_is_found(settings: dict[str, str], code: str, severity: Severity) -> None:
    finding = the_one(with_settings(**settings))

    assert (finding.code, finding.severity) == (code, severity)


def test_the_advice_about_the_lock_table_is_enough() -> None:
    advice = the_one(with_settings(max_locks_per_transaction="10", max_connections="90")).do

    number = next(word for word in advice.split() if word.isdigit())
    assert bad(with_settings(max_locks_per_transaction=number, max_connections="90")) == []


@pytest.mark.parametrize(
    ("change", "code", "severity"),
    [
        ({"version": 120000}, "version", Severity.ERROR),
        ({"in_recovery": True}, "standby", Severity.ERROR),
        ({"identities": {"pillarbox_outbox": 20, "pillarbox_queue": 1}}, "identity-cache", Severity.ERROR),
        ({"pooled": True}, "pooler", Severity.WARNING),
        ({"relays": 0}, "relays", Severity.NOTICE),
        ({"default_bytes": 65 << 20}, "partitions", Severity.WARNING),
        ({"missing_slot": "shop_outbox"}, "slot-lost", Severity.ERROR),
        ({"sees_sessions": False}, "rights", Severity.NOTICE),
    ],
)
def test_what_is_no_setting_is_found(change: dict[str, Any], code: str, severity: Severity) -> None:
    finding = the_one(replace(SOUND, **change))

    assert (finding.code, finding.severity) == (code, severity)


@pytest.mark.parametrize(
    ("change", "code", "severity"),
    [
        ({"active": False}, "slot-inactive", Severity.WARNING),
        ({"status": "lost", "active": False}, "slot-lost", Severity.ERROR),
        ({"status": "lost", "active": False, "ours": False}, "slot-lost", Severity.NOTICE),
        ({"status": "unreserved"}, "slot-lag", Severity.ERROR),
        ({"status": "unreserved", "ours": False}, "slot-lag", Severity.WARNING),
        ({"retained_bytes": 2 << 30}, "slot-lag", Severity.WARNING),
    ],
)
def test_a_slot_that_lags_or_is_lost_is_found(change: dict[str, Any], code: str, severity: Severity) -> None:
    finding = the_one(replace(SOUND, slots=[replace(SLOT, **change)]))

    assert (finding.code, finding.severity) == (code, severity)
    assert finding.subject == "slot pillarbox_log"


@pytest.mark.parametrize(("ours", "severity"), [(True, Severity.WARNING), (False, Severity.NOTICE)])
def test_slots_may_not_keep_wal_without_a_limit(ours: bool, severity: Severity) -> None:
    unlimited = with_settings(max_slot_wal_keep_size="-1")

    assert bad(unlimited) == []
    assert the_one(replace(unlimited, slots=[replace(SLOT, ours=ours)])).severity is severity


@pytest.mark.parametrize(("limit", "ours", "is_found"), [("1h", True, True), ("1h", False, False), ("0", True, False)])
def test_a_slot_of_ours_may_not_be_lost_for_standing_still(limit: str, ours: bool, is_found: bool) -> None:
    facts = replace(with_settings(idle_replication_slot_timeout=limit), slots=[replace(SLOT, ours=ours)])

    assert [(one.code, one.severity) for one in bad(facts)] == [("slot-idle", Severity.WARNING)] * is_found


def test_an_old_session_is_named_by_pid_place_and_query() -> None:
    finding = the_one(replace(SOUND, old_transactions=[SESSION]))

    assert finding.subject == "pid 4711"
    for part in ("540 s", "shop", "analyst", "psql", "SELECT count(*) FROM orders"):
        assert part in finding.what
    assert "1200 transactions" in finding.means
    assert "pg_terminate_backend(4711)" in finding.do


def test_a_long_query_is_cut() -> None:
    finding = the_one(replace(SOUND, old_transactions=[replace(SESSION, query="x" * 5000)]))

    assert "x" * LONGEST_QUERY + "…" in finding.what


def test_a_session_that_holds_no_rows_back_still_holds_its_locks() -> None:
    assert "locks" in the_one(replace(SOUND, old_transactions=[replace(SESSION, holds_back=None)])).means


@pytest.mark.parametrize(
    ("kind", "do"), [("prepared", "ROLLBACK PREPARED 'tx-1'"), ("slot", "drop the slot if nobody is")]
)
def test_prepared_transactions_and_slots_hold_rows_back_too(kind: str, do: str) -> None:
    old = OldTransaction(kind=kind, name="tx-1", open_for=timedelta(days=2), holds_back=5, database="shop")

    assert do in the_one(replace(SOUND, old_transactions=[old])).do


def test_the_name_of_a_prepared_transaction_is_quoted() -> None:
    old = OldTransaction(kind="prepared", name="it's", open_for=timedelta(days=2), holds_back=5, database="shop")

    assert "ROLLBACK PREPARED 'it''s'" in the_one(replace(SOUND, old_transactions=[old])).do


def test_a_view_of_unknown_age_counts_by_its_transactions() -> None:
    young = OldTransaction(kind="slot", name="s", open_for=None, holds_back=1000, database="")

    assert bad(replace(SOUND, old_transactions=[young])) == []
    assert the_one(replace(SOUND, old_transactions=[replace(young, holds_back=2_000_000)])).subject == "slot s"


def test_a_transaction_within_the_limit_is_nobodys_business() -> None:
    assert bad(replace(SOUND, old_transactions=[replace(SESSION, open_for=timedelta(seconds=60))])) == []


def test_dead_rows_count_where_they_are_many_and_outnumber_the_living() -> None:
    def of(live: int, dead: int) -> PostgresFacts:
        table = TableFacts(name="pillarbox_queue", live=live, dead=dead, vacuumed_ago=None, autovacuum=True)
        return replace(SOUND, tables=[table])

    assert bad(of(live=20_001, dead=20_000)) == []
    assert bad(of(live=0, dead=10_000)) == []
    finding = the_one(of(live=5, dead=20_000))
    assert finding.subject == "pillarbox_queue"
    assert "vacuumed never" in finding.what


def test_a_table_without_autovacuum_is_found() -> None:
    assert the_one(replace(SOUND, tables=[replace(SOUND.tables[0], autovacuum=False)])).code == "table-autovacuum"


def test_missing_tables_columns_and_indexes_are_found_by_name() -> None:
    columns = dict(WHOLE.columns)
    del columns["pillarbox_claims"]
    columns["pillarbox_holds"] = columns["pillarbox_holds"] - {"since"}
    indexes = WHOLE.indexes - {"pillarbox_queue_mailbox"}

    found = bad(replace(SOUND, schema=replace(WHOLE, columns=columns, indexes=indexes)))

    assert {(one.code, one.subject) for one in found} == {
        ("missing-table", "pillarbox_claims"),
        ("missing-column", "pillarbox_holds"),
        ("missing-index", "pillarbox_queue"),
    }


def test_a_database_without_tables_has_one_finding_about_them() -> None:
    empty = SchemaFacts(version=None, columns={}, indexes=frozenset())

    assert the_one(replace(SOUND, schema=empty)).code == "schema-version"


@pytest.mark.parametrize(
    ("version", "do"), [(None, "migrate"), (CURRENT_VERSION - 1, "migrate"), (CURRENT_VERSION + 1, "upgrade")]
)
def test_another_version_of_the_schema_is_an_error(version: int | None, do: str) -> None:
    finding = the_one(replace(SOUND, schema=replace(WHOLE, version=version)))

    assert finding.severity is Severity.ERROR
    assert do in finding.do
