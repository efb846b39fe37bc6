"""What a doctor reads from a PostgreSQL: settings, sessions, slots, and our tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import String, bindparam, text

from pillarbox.relational.shape import SchemaFacts, tables_of
from pillarbox.transaction import Execute, Program

LEAST_VERSION = 130000


@dataclass(frozen=True, slots=True, kw_only=True)
class OldTransaction:
    """Something that keeps rows from being removed anywhere in the cluster.

    Attributes:
        kind: ``session``, ``prepared`` (a prepared transaction) or ``slot``.
        name: the pid of a session, the name of a prepared transaction or of a slot.
        open_for: how long it has been open; ``None`` where PostgreSQL does not know.
        holds_back: how many transactions ago its view of the data was taken; ``None`` if it holds none back.
        query: its last statement; what PostgreSQL says instead where one may not see it.
    """

    kind: str
    name: str
    open_for: timedelta | None
    holds_back: int | None
    database: str
    state: str = ""
    user: str = ""
    application: str = ""
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts:
    """A replication slot.

    Attributes:
        ours: it reads this database, and bears our name or is the one that a log tailing relay reads.
        status: PostgreSQL's ``wal_status``: reserved, extended, unreserved or lost.
        retained_bytes: how much WAL it holds back; ``None`` where that cannot be told.
    """

    name: str
    ours: bool
    active: bool
    status: str
    retained_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """How much of a table is dead, and who cleans it."""

    name: str
    live: int
    dead: int
    vacuumed_ago: timedelta | None
    autovacuum: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresFacts:
    """Everything that the doctor judges.

    Attributes:
        version: as ``server_version_num`` spells it, such as 150004.
        settings: as a session of ours sees them.
        identities: how many positions each table's identity hands out to a session at once.
        missing_slot: the one that a log tailing relay reads, where there is none of that name.
        default_bytes: of the partition whose rows a sequence relay removes one by one; 0 without such a relay.
        relays: processes that relay now; ``None`` where that cannot be told.
        sees_sessions: we may see what other users' sessions do.
        pooled: sessions of ours share server processes between their transactions.
    """

    version: int
    in_recovery: bool
    settings: Mapping[str, str]
    schema: SchemaFacts
    identities: Mapping[str, int]
    tables: Sequence[TableFacts]
    old_transactions: Sequence[OldTransaction]
    slots: Sequence[SlotFacts]
    missing_slot: str | None
    default_bytes: int
    relays: int | None
    sees_sessions: bool
    pooled: bool


SERVER = text(
    "SELECT CAST(current_setting('server_version_num') AS int), pg_is_in_recovery(), "
    "pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"
)
SETTINGS = text(
    "SELECT name, current_setting(name) FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', "
    "'synchronous_commit', 'synchronous_standby_names', 'wal_level', 'max_slot_wal_keep_size', "
    "'idle_replication_slot_timeout', 'max_locks_per_transaction', 'max_connections', 'max_prepared_transactions', "
    "'autovacuum', 'hot_standby_feedback')"
)
COLUMNS = text(
    "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
    "WHERE c.relname LIKE 'pillarbox\\_%' AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) "
    "AND a.attnum > 0 AND NOT a.attisdropped"
)
INDEXES = text(
    "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid "
    "WHERE t.relname LIKE 'pillarbox\\_%' AND pg_table_is_visible(t.oid) AND i.indisvalid AND i.indisready"
)
SCHEMA_VERSION = text("SELECT max(version) FROM pillarbox_schema_version")
IDENTITIES = text(
    "SELECT t.relname, s.seqcache FROM pg_sequence s JOIN pg_depend d ON d.objid = s.seqrelid "
    "AND d.classid = CAST('pg_class' AS regclass) AND d.refclassid = CAST('pg_class' AS regclass) "
    "AND d.deptype IN ('i', 'a') JOIN pg_class t ON t.oid = d.refobjid "
    "WHERE t.relname LIKE 'pillarbox\\_%' AND pg_table_is_visible(t.oid)"
)
TABLES = text(
    "SELECT t.relname, t.n_live_tup, t.n_dead_tup, CAST(extract(epoch FROM clock_timestamp() - "
    "greatest(t.last_autovacuum, t.last_vacuum)) AS float8), "
    "NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions) "
    "WHERE option_name = 'autovacuum_enabled' AND NOT CAST(option_value AS boolean)) "
    "FROM pg_stat_user_tables t JOIN pg_class c ON c.oid = t.relid "
    "WHERE t.relname LIKE 'pillarbox\\_%' AND pg_table_is_visible(t.relid) ORDER BY t.relname"
)
SESSIONS = text(  # a walsender's xmin is what its standby asks for; of others' sessions one may see the xmin alone
    "SELECT CAST(pid AS text), CAST(extract(epoch FROM clock_timestamp() - xact_start) AS float8), "
    "greatest(age(backend_xmin), age(backend_xid)), coalesce(datname, ''), coalesce(state, backend_type, ''), "
    "coalesce(usename, ''), coalesce(application_name, ''), coalesce(query, '') FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) "
    "AND coalesce(backend_type, 'client backend') IN ('client backend', 'walsender') ORDER BY xact_start"
)
PREPARED = text(
    "SELECT gid, CAST(extract(epoch FROM clock_timestamp() - prepared) AS float8), age(transaction), database, owner "
    "FROM pg_prepared_xacts ORDER BY prepared"
)
SLOTS = text(
    "SELECT slot_name, coalesce(database = current_database() AND (slot_name LIKE 'pillarbox%' OR slot_name = :read), "
    "false), active, "
    "coalesce(wal_status, ''), CASE WHEN NOT pg_is_in_recovery() "
    "THEN CAST(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) AS bigint) END, age(xmin), coalesce(database, '') "
    "FROM pg_replication_slots ORDER BY slot_name"
).bindparams(bindparam("read", type_=String))
READ_SLOT = text("SELECT slot FROM pillarbox_outbox_checkpoint WHERE flushed_lsn <> ''")
DEFAULT_PARTITION = text(  # of no interest where no sequence relay works
    "SELECT pg_relation_size(to_regclass('pillarbox_outbox_default')) FROM pillarbox_outbox_cursor"
)
RELAYS = text(
    "SELECT count(*) FROM pillarbox_members WHERE scope = 'relay' "
    "AND expires_at > extract(epoch FROM clock_timestamp()) * 1000000"
)


def read_facts(*, pooled: bool) -> Program[PostgresFacts]:
    """Read everything in one transaction, none of it from the rows of the outbox or of the queues."""
    version, in_recovery, sees_sessions = (yield Execute(SERVER))[0]
    settings = {str(name): str(value) for name, value in (yield Execute(SETTINGS))}
    schema = yield from _schema()
    read = (yield Execute(READ_SLOT)) if "pillarbox_outbox_checkpoint" in schema.columns else ()
    default = (yield Execute(DEFAULT_PARTITION)) if "pillarbox_outbox_cursor" in schema.columns else ()
    slots = yield Execute(SLOTS, {"read": read[0][0] if read else ""})
    tables = yield Execute(TABLES)
    return PostgresFacts(
        version=version,
        in_recovery=in_recovery,
        settings=settings,
        schema=schema,
        identities={str(row[0]): int(row[1]) for row in (yield Execute(IDENTITIES))},
        tables=[
            TableFacts(name=name, live=live, dead=dead, vacuumed_ago=_seconds(ago), autovacuum=autovacuum)
            for name, live, dead, ago, autovacuum in tables
        ],
        old_transactions=[*(yield from _transactions()), *_of_slots(slots)],
        slots=[
            SlotFacts(name=row[0], ours=row[1], active=row[2], status=row[3], retained_bytes=row[4]) for row in slots
        ],
        missing_slot=next((name for (name,) in read if name not in {row[0] for row in slots}), None),
        default_bytes=max((size or 0 for (size,) in default), default=0),
        relays=(yield Execute(RELAYS))[0][0] if "pillarbox_members" in schema.columns else None,
        sees_sessions=sees_sessions,
        pooled=pooled,
    )


def _schema() -> Program[SchemaFacts]:
    columns = tables_of([(str(table), str(column)) for table, column in (yield Execute(COLUMNS))])
    indexes = frozenset(str(name) for (name,) in (yield Execute(INDEXES)))
    version = (yield Execute(SCHEMA_VERSION))[0][0] if "pillarbox_schema_version" in columns else None
    return SchemaFacts(version=version, columns=columns, indexes=indexes)


def _transactions() -> Program[list[OldTransaction]]:
    sessions = [
        OldTransaction(
            kind="session",
            name=row[0],
            open_for=_seconds(row[1]),
            holds_back=row[2],
            database=row[3],
            state=row[4],
            user=row[5],
            application=row[6],
            query=row[7],
        )
        for row in (yield Execute(SESSIONS))
    ]
    prepared = [
        OldTransaction(
            kind="prepared", name=row[0], open_for=_seconds(row[1]), holds_back=row[2], database=row[3], user=row[4]
        )
        for row in (yield Execute(PREPARED))
    ]
    return sessions + prepared


def _of_slots(slots: Sequence[Sequence[object]]) -> list[OldTransaction]:
    """Return the slots that hold rows back, as a standby's does with hot_standby_feedback."""
    return [
        OldTransaction(kind="slot", name=str(row[0]), open_for=None, holds_back=row[5], database=str(row[6]))
        for row in slots
        if isinstance(row[5], int)
    ]


def _seconds(value: float | None) -> timedelta | None:
    return None if value is None else timedelta(seconds=max(value, 0.0))
