"""The doctor of MariaDB and MySQL: what was read of a server, and what it means for messages.

The rows of RELIABILITY behind the codes: ``auto-increment`` A6, ``flush-log`` and ``sync-binlog`` A8, ``sql-mode`` A12,
``isolation`` B13, ``version`` B21, ``galera`` B22.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, text

from pillarbox.control.diagnosis import Diagnosable, Finding, Severity, problem, well
from pillarbox.outbox.record import LOCK_BUCKETS
from pillarbox.relational import RelationalStore
from pillarbox.relational.shape import SchemaFacts, schema_findings, tables_of
from pillarbox.stores.mysql.locks import key_locks
from pillarbox.transaction import Execute, Program

LEAST_MARIADB, LEAST_MYSQL = (10, 6), (8, 0)
STRICT = frozenset({"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES"})
BYTE_BY_BYTE = re.compile(r"(_nopad_bin|_0900_bin|^binary)$")
"""The other binary collations pad: to them 'x' and 'x ' are the same."""
ON = frozenset({"ON", "1"})

VERSION = text("SELECT VERSION()")
VARIABLES = text(
    "SHOW VARIABLES WHERE Variable_name IN ('transaction_isolation', 'tx_isolation', 'innodb_flush_log_at_trx_commit', "
    "'sync_binlog', 'log_bin', 'sql_mode', 'auto_increment_increment', 'wsrep_on', 'read_only', "
    "'innodb_doublewrite', 'innodb_snapshot_isolation')"
)
YOURS = text(  # our own sessions set these for themselves
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('transaction_isolation', 'tx_isolation', "
    "'innodb_snapshot_isolation')"
)
COLUMNS = text(
    "SELECT TABLE_NAME, COLUMN_NAME, COALESCE(COLLATION_NAME, ''), DATA_TYPE FROM information_schema.COLUMNS "
    "WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE 'pillarbox\\\\_%'"
)
INDEXES = text(
    "SELECT DISTINCT INDEX_NAME FROM information_schema.STATISTICS "
    "WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE 'pillarbox\\\\_%'"
)
ENGINES = text(
    "SELECT TABLE_NAME, COALESCE(ENGINE, '') FROM information_schema.TABLES "
    "WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE 'pillarbox\\\\_%'"
)
COUNT_LOCKS = select(func.count()).select_from(key_locks)
SCHEMA_VERSION = text("SELECT MAX(version) FROM pillarbox_schema_version")
COMPARED = frozenset(
    ("id", "message_id", "message_key", "hold_key", "aggregate_id", "destination", "consumer", "channel", "owner")
)
"""Columns whose values are told apart byte by byte."""


class MysqlDiagnosis(Diagnosable):
    """Looks at the database of a store, with sessions like the store's own."""

    def __init__(self, store: RelationalStore) -> None:
        """Connect to nothing yet."""
        self._store = store

    async def diagnose(self, *, deep: bool) -> Sequence[Finding]:
        """Read, then judge; ``deep`` changes nothing."""
        return judge_mysql(await self._store.run(read_facts(is_lent=not self._store.owns_engine)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MysqlFacts:
    """Everything that the doctor judges.

    Attributes:
        version: what the server says, such as ``10.11.6-MariaDB``.
        variables: as a session of ours sees them; what our sessions set, as one of yours begins with it. Those that a
            server does not know are missing.
        collations: of the text columns of ours that hold ids, keys and names, as ``table.column``.
        engines: of each table of ours.
        key_locks: how many rows there are to lock keys by; ``None`` where their table is missing.
    """

    version: str
    variables: Mapping[str, str]
    schema: SchemaFacts
    collations: Mapping[str, str]
    engines: Mapping[str, str]
    key_locks: int | None


def read_facts(*, is_lent: bool) -> Program[MysqlFacts]:
    """Read everything that is judged; of an engine that ``is_lent`` only the isolation is set by us."""
    version = str((yield Execute(VERSION))[0][0])
    variables = {str(name).lower(): str(value) for name, value in (yield Execute(VARIABLES))}
    yours = {str(name).lower(): str(value) for name, value in (yield Execute(YOURS))}
    if is_lent:
        yours.pop("innodb_snapshot_isolation", None)
    variables |= yours
    found = yield Execute(COLUMNS)
    columns = tables_of([(str(row[0]), str(row[1])) for row in found])
    indexes = frozenset(str(name) for (name,) in (yield Execute(INDEXES)))
    number = (yield Execute(SCHEMA_VERSION))[0][0] if "pillarbox_schema_version" in columns else None
    engines = {str(table): str(engine) for table, engine in (yield Execute(ENGINES))}
    return MysqlFacts(
        version=version,
        variables=variables,
        schema=SchemaFacts(version=number, columns=columns, indexes=indexes),
        engines=engines,
        key_locks=(yield Execute(COUNT_LOCKS))[0][0] if key_locks.name in engines else None,
        collations={f"{row[0]}.{row[1]}": str(row[2]) for row in found if row[1] in COMPARED and row[2]},
    )


def judge_mysql(facts: MysqlFacts) -> list[Finding]:
    """Return every finding, good and bad."""
    return [
        _version(facts),
        *_durability(facts),
        _isolation(facts),
        *_snapshots(facts),
        _sql_mode(facts),
        *_several_writers(facts),
        *schema_findings(facts.schema, "mysql"),
        *_collations(facts),
        *_engines(facts),
        *_key_locks(facts),
    ]


def _version(facts: MysqlFacts) -> Finding:
    is_mariadb = "mariadb" in facts.version.lower()
    number = tuple(int(part) for part in re.findall(r"\d+", facts.version)[:2])
    least = LEAST_MARIADB if is_mariadb else LEAST_MYSQL
    if number >= least:
        return well("version", "server", facts.version)
    means = "it has no SKIP LOCKED: relays and consumers fail, or wait for each other"
    do = f"upgrade to {'MariaDB' if is_mariadb else 'MySQL'} {'.'.join(map(str, least))} or newer"
    return problem("version", Severity.ERROR, "server", facts.version, means=means, do=do)


def _durability(facts: MysqlFacts) -> Iterator[Finding]:
    lost = "a commit that was reported can vanish in a crash, with its message, after others were told of it"
    flush = facts.variables.get("innodb_flush_log_at_trx_commit", "1")
    if flush not in {"1", "3"}:
        do = "SET GLOBAL innodb_flush_log_at_trx_commit = 1, and in the configuration"
        yield problem("flush-log", Severity.WARNING, "innodb_flush_log_at_trx_commit", flush, means=lost, do=do)
    else:
        yield well("flush-log", "innodb_flush_log_at_trx_commit", flush)
    binlog = facts.variables.get("sync_binlog", "1")
    if facts.variables.get("log_bin", "OFF").upper() in ON and binlog != "1":
        means = "after a crash the binary log can lack commits that the tables have: replicas miss messages"
        do = "SET GLOBAL sync_binlog = 1, and in the configuration"
        yield problem("sync-binlog", Severity.WARNING, "sync_binlog", binlog, means=means, do=do)
    else:
        yield well("sync-binlog", "sync_binlog", binlog)
    if facts.variables.get("innodb_doublewrite", "ON").upper() in {"OFF", "0"}:
        means = "a crash can leave torn pages, which lose rows in silence"
        yield problem(
            "doublewrite", Severity.ERROR, "innodb_doublewrite", "off", means=means, do="set it on and restart"
        )


def _isolation(facts: MysqlFacts) -> Finding:
    name = next((one for one in ("transaction_isolation", "tx_isolation") if one in facts.variables), None)
    level = facts.variables[name] if name else "unknown"
    if level.upper() == "READ-COMMITTED":
        return well("isolation", "transaction isolation", level)
    means = (
        "transactions of yours that read ranges of our tables with a lock make producers wait (next-key locks); a "
        "transaction kept open sees no newer record. Our own sessions set READ COMMITTED"
    )
    do = "nothing for Pillarbox; SET GLOBAL transaction_isolation = 'READ-COMMITTED' if your code allows it"
    return problem("isolation", Severity.NOTICE, "transaction isolation", level, means=means, do=do)


def _snapshots(facts: MysqlFacts) -> Iterator[Finding]:
    if facts.variables.get("innodb_snapshot_isolation", "OFF").upper() not in ON:
        return
    means = (
        "sessions of your engine get error 1020 where they have waited for a row: Pillarbox tries again, and your own "
        "code must. The store's own sessions set it OFF"
    )
    do = "SET SESSION innodb_snapshot_isolation = OFF where your engine connects, if your code allows it"
    yield problem("snapshot-isolation", Severity.NOTICE, "innodb_snapshot_isolation", "ON", means=means, do=do)


def _sql_mode(facts: MysqlFacts) -> Finding:
    mode = facts.variables.get("sql_mode", "")
    if STRICT & set(mode.upper().split(",")):
        return well("sql-mode", "sql_mode", "strict")
    means = "values that are too long are cut off in silence: keys and ids that differ become the same"
    return problem(
        "sql-mode", Severity.ERROR, "sql_mode", "not strict", means=means, do="add STRICT_TRANS_TABLES to sql_mode"
    )


def _several_writers(facts: MysqlFacts) -> Iterator[Finding]:
    step = facts.variables.get("auto_increment_increment", "1")
    if step != "1":
        means = "several primaries number records beside each other: positions do not follow the order of commits"
        do = "write through one primary only, with auto_increment_increment = 1"
        yield problem("auto-increment", Severity.WARNING, "auto_increment_increment", step, means=means, do=do)
    else:
        yield well("auto-increment", "auto_increment_increment", "1")
    if facts.variables.get("wsrep_on", "OFF").upper() in ON:
        means = "locks hold on one node only, and a commit can fail at its end: two processes can own one lease"
        do = "let every process of this service use one designated node"
        yield problem("galera", Severity.WARNING, "wsrep_on", "this is a node of a Galera cluster", means=means, do=do)
    if facts.variables.get("read_only", "OFF").upper() not in {"OFF", "0"}:
        means = "nothing can be published or handled here"
        yield problem(
            "read-only", Severity.ERROR, "server", "it is read-only", means=means, do="name the primary in the URL"
        )


def _collations(facts: MysqlFacts) -> Iterator[Finding]:
    folding = sorted(f"{name} ({kind})" for name, kind in facts.collations.items() if not BYTE_BY_BYTE.search(kind))
    if folding:
        what = f"compared by a folding or padding collation: {', '.join(folding)}"
        means = "'a' and 'A', or 'x' and 'x ' are one key or one id: messages are taken for duplicates and dropped"
        own = "utf8mb4_nopad_bin" if "mariadb" in facts.version.lower() else "utf8mb4_0900_bin"
        do = f"change these columns to {own}, as pillarbox migrate --sql prints them"
        yield problem("collation", Severity.ERROR, "our tables", what, means=means, do=do)
    elif facts.collations:
        yield well("collation", "our tables", "ids and keys are compared byte by byte")


def _engines(facts: MysqlFacts) -> Iterator[Finding]:
    others = sorted(f"{name} ({engine})" for name, engine in facts.engines.items() if engine != "InnoDB")
    if others:
        means = "what is written there stays when its transaction rolls back, and no row of it can be locked"
        do = "ALTER TABLE … ENGINE = InnoDB"
        yield problem("engine", Severity.ERROR, "our tables", f"not of InnoDB: {', '.join(others)}", means=means, do=do)
    elif facts.engines:
        yield well("engine", "our tables", "all of InnoDB")


def _key_locks(facts: MysqlFacts) -> Iterator[Finding]:
    if not facts.engines:
        return  # that there are no tables is said already
    rows = facts.key_locks or 0
    if rows < LOCK_BUCKETS:
        what = f"{rows} rows of {LOCK_BUCKETS}" if facts.key_locks is not None else "the table is missing"
        means = "producers of one key do not wait for each other: its messages come out of order, or publishing fails"
        yield problem("key-locks", Severity.ERROR, key_locks.name, what, means=means, do="run: pillarbox migrate")
    else:
        yield well("key-locks", key_locks.name, f"all {rows} rows")
