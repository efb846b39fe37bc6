"""What the doctor says about facts of a MariaDB or MySQL."""

from dataclasses import replace
from typing import Any

import pytest

from pillarbox.control.diagnosis import Finding, Severity
from pillarbox.outbox.record import LOCK_BUCKETS
from pillarbox.stores.mysql.diagnosis import MysqlFacts, judge_mysql
from tests.unit.stores.test_postgresql_judgement import WHOLE

SOUND = MysqlFacts(
    version="10.11.6-MariaDB-0+deb12u1",
    variables={
        "transaction_isolation": "READ-COMMITTED",
        "innodb_flush_log_at_trx_commit": "1",
        "innodb_doublewrite": "ON",
        "sync_binlog": "0",
        "log_bin": "OFF",
        "sql_mode": "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION",
        "auto_increment_increment": "1",
        "wsrep_on": "OFF",
        "read_only": "OFF",
    },
    schema=replace(WHOLE, indexes=WHOLE.indexes - {"pillarbox_outbox_transaction"}),
    collations={"pillarbox_inbox.message_id": "utf8mb4_nopad_bin"},
    engines={"pillarbox_inbox": "InnoDB"},
    key_locks=LOCK_BUCKETS,
)


def bad(facts: MysqlFacts) -> list[Finding]:
    return [one for one in judge_mysql(facts) if one.severity is not Severity.OK]


def test_a_sound_server_has_nothing_amiss() -> None:
    assert bad(SOUND) == []


@pytest.mark.parametrize(
    ("variables", "code", "severity"),
    [
        ({"transaction_isolation": "REPEATABLE-READ"}, "isolation", Severity.NOTICE),
        ({"innodb_snapshot_isolation": "ON"}, "snapshot-isolation", Severity.NOTICE),
        ({"innodb_flush_log_at_trx_commit": "2"}, "flush-log", Severity.WARNING),
        ({"innodb_doublewrite": "OFF"}, "doublewrite", Severity.ERROR),
        ({"log_bin": "ON"}, "sync-binlog", Severity.WARNING),
        ({"sql_mode": "NO_ENGINE_SUBSTITUTION"}, "sql-mode", Severity.ERROR),
        ({"auto_increment_increment": "3"}, "auto-increment", Severity.WARNING),
        ({"wsrep_on": "ON"}, "galera", Severity.WARNING),
        ({"read_only": "ON"}, "read-only", Severity.ERROR),
    ],
)
def test_a_variable_that_endangers_messages_is_found(variables: dict[str, str], code: str, severity: Severity) -> None:
    (finding,) = bad(replace(SOUND, variables={**SOUND.variables, **variables}))

    assert (finding.code, finding.severity) == (code, severity)
    assert finding.means
    assert finding.do


def test_the_isolation_has_another_name_on_older_servers() -> None:
    variables = {name: value for name, value in SOUND.variables.items() if name != "transaction_isolation"}

    assert bad(replace(SOUND, variables={**variables, "tx_isolation": "READ-COMMITTED"})) == []


@pytest.mark.parametrize(
    ("version", "is_well"),
    [("10.5.9-MariaDB", False), ("10.6.1-MariaDB", True), ("5.7.44", False), ("8.0.36", True), ("8.4.0-log", True)],
)
def test_a_server_without_skip_locked_is_an_error(version: str, is_well: bool) -> None:
    assert (bad(replace(SOUND, version=version)) == []) is is_well


@pytest.mark.parametrize("collation", ["utf8mb4_general_ci", "utf8mb4_uca1400_ai_ci", "utf8mb4_bin"])
def test_a_folding_collation_is_an_error_and_names_its_column(collation: str) -> None:
    (finding,) = bad(replace(SOUND, collations={"pillarbox_inbox.message_id": collation}))

    assert finding.code == "collation"
    assert f"pillarbox_inbox.message_id ({collation})" in finding.what


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"engines": {"pillarbox_inbox": "InnoDB", "pillarbox_outbox": "MyISAM"}}, "engine"),
        ({"key_locks": LOCK_BUCKETS - 1}, "key-locks"),
        ({"key_locks": None}, "key-locks"),
    ],
)
def test_tables_that_do_not_lock_are_an_error(change: dict[str, Any], code: str) -> None:
    (finding,) = bad(replace(SOUND, **change))

    assert (finding.code, finding.severity) == (code, Severity.ERROR)
