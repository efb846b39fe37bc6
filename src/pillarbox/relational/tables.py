"""The tables of Pillarbox, once for every SQL database.

Instants are microseconds since 1970 UTC by the database's own clock. Message ids, keys and names are compared byte by
byte (RELIABILITY: a folding collation merges keys and drops messages). Each state column lists its states in a CHECK.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy import LargeBinary as PlainBinary
from sqlalchemy import Text as PlainText
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT

from pillarbox.relational.expressions import TransactionId, current_transaction
from pillarbox.relational.mysql_types import BOTH, TABLE_OPTIONS, BinaryKey, BinaryText

PREFIX = "pillarbox_"
metadata = MetaData()

Position = BigInteger().with_variant(Integer(), "sqlite")  # SQLite's rowid alias must be spelled INTEGER
Name = (  # SQLite compares bytes unless told otherwise
    String(200, collation="C").with_variant(String(200), "sqlite").with_variant(BinaryText(200), *BOTH)
)
Key = String(600, collation="C").with_variant(String(600), "sqlite").with_variant(BinaryKey(600), *BOTH)
Text = PlainText().with_variant(LONGTEXT(), *BOTH)
LargeBinary = PlainBinary().with_variant(LONGBLOB(), *BOTH)


def _table(name: str, *parts: Any, **options: Any) -> Table:
    return Table(PREFIX + name, metadata, *parts, sqlite_autoincrement=True, **TABLE_OPTIONS, **options)


def _on_postgresql(index: Index) -> Index:
    """Make ``index`` on PostgreSQL only."""
    index.info["dialect"] = "postgresql"
    index.ddl_if(dialect="postgresql")
    return index


def _completed_on_postgresql(table: Table, sql: str) -> None:
    """Execute ``sql`` after ``table`` was created on PostgreSQL."""
    statement = DDL(sql)  # type: ignore[no-untyped-call]  # SQLAlchemy left its constructor untyped
    table.info["completed_by"] = {"postgresql": statement}
    event.listen(table, "after_create", statement.execute_if(dialect="postgresql"))


def _position() -> Column[Any]:
    """Return an identity taken one by one: CACHE above 1 would hand out positions out of order."""
    return Column("position", Position, Identity(cache=1), primary_key=True)


def _record_columns() -> tuple[Column[Any], ...]:
    """Return the columns of an outbox record; Debezium's outbox event router can read them."""
    return (
        Column("id", Name, nullable=False),
        Column("aggregate_type", Name, nullable=False),
        Column("aggregate_id", Key, nullable=False),
        Column("event_type", Name, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("content_type", String(100), nullable=False),
        Column("headers", Text, nullable=False),
        Column("destination", Name, nullable=False),
        Column("message_key", Key),
        Column("slot", SmallInteger, nullable=False),
        Column("key_sequence", BigInteger),
        Column("created_at", BigInteger, nullable=False),
    )


def _message_columns() -> tuple[Column[Any], ...]:
    """Return the columns of a message as it was delivered: opaque bytes beside its envelope."""
    return (
        Column("message_id", Name, nullable=False),
        Column("type", Name, nullable=False),
        Column("channel", Name, nullable=False),
        Column("message_key", Key),
        Column("content_type", String(100), nullable=False),
        Column("headers", Text, nullable=False),
        Column("body", LargeBinary, nullable=False),
    )


schema_version = _table(
    "schema_version",
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at", BigInteger, nullable=False),
)

# --- outbox -----------------------------------------------------------------------------------------------------------
outbox = _table(
    "outbox",
    _position(),
    *_record_columns(),
    Column("transaction_id", TransactionId, nullable=False, server_default=current_transaction()),
    _on_postgresql(Index("pillarbox_outbox_transaction", "transaction_id", "position")),
    postgresql_partition_by="RANGE (position)",  # at first there is one partition, the default
)
_completed_on_postgresql(
    outbox, "CREATE TABLE IF NOT EXISTS pillarbox_outbox_default PARTITION OF pillarbox_outbox DEFAULT"
)
outbox_scheduled = _table(
    "outbox_scheduled",
    _position(),
    *_record_columns(),
    Column("due_at", BigInteger, nullable=False),
    Index("pillarbox_outbox_scheduled_due", "due_at", "position"),
)
outbox_holds = _table(
    "outbox_holds",
    Column("destination", Name, primary_key=True),
    Column("message_key", Key, primary_key=True),
    Column("since", BigInteger, nullable=False),
)
outbox_held = _table(
    "outbox_held",
    Column("position", Position, primary_key=True, autoincrement=False),
    *_record_columns(),
    Column("state", String(10), nullable=False),
    Column("reason", Text),
    Column("parked_at", BigInteger, nullable=False),
    Column("skipped_at", BigInteger),
    Column("skipped_by", Name),
    Column("skipped_because", Text),
    CheckConstraint("state IN ('parked', 'held', 'released', 'skipped')", name="pillarbox_outbox_held_state"),
    Index("pillarbox_outbox_held_state_position", "state", "position"),
    Index("pillarbox_outbox_held_key", "destination", "message_key", "position"),
)
outbox_cursor = _table(
    "outbox_cursor",
    Column("name", Name, primary_key=True),
    Column("since", Text, nullable=False),
    Column("until", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("highest", BigInteger, nullable=False),
    Column("system_id", Name, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)
outbox_cursor_history = _table(  # where the cursor stood before, so that a record's time of publishing can be told
    "outbox_cursor_history",
    Column("at", Position, primary_key=True, autoincrement=False),
    Column("since", Text, nullable=False),
    Column("until", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("highest", BigInteger, nullable=False),
)
outbox_checkpoint = _table(  # of a log tailing relay; locations in the log are PostgreSQL's text
    "outbox_checkpoint",
    Column("name", Name, primary_key=True),
    Column("system_id", Name, nullable=False),
    Column("timeline", BigInteger, nullable=False),
    Column("slot", Name, nullable=False),
    Column("flushed_lsn", Name, nullable=False),
    Column("partial_lsn", Name, nullable=False),
    Column("partial_rows", BigInteger, nullable=False),
    Column("healing_snapshot", Text),
    Column("has_table", Boolean, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)
outbox_published = _table(
    "outbox_published",
    Column("position", Position, primary_key=True, autoincrement=False),
    *_record_columns(),
    Column("published_at", BigInteger, nullable=False),
    Index("pillarbox_outbox_published_at", "published_at"),
)

key_numbers = _table(
    "key_numbers",
    Column("destination", Name, primary_key=True),
    Column("message_key", Key, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
)

# --- leases -----------------------------------------------------------------------------------------------------------
members = _table(
    "members",
    Column("scope", Name, primary_key=True),
    Column("owner", Name, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    Column("types", Text),  # of messages that it handles, as JSON
)
leases = _table(
    "leases",
    Column("scope", Name, primary_key=True),
    Column("slot", SmallInteger, primary_key=True, autoincrement=False),
    Column("owner", Name),
    Column("token", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

# --- the database as a channel ----------------------------------------------------------------------------------------
subscriptions = _table(
    "subscriptions",
    Column("channel", Name, primary_key=True),
    Column("consumer", Name, primary_key=True),
    Column("since", BigInteger, nullable=False),
)
queue = _table(
    "queue",
    _position(),
    Column("consumer", Name, nullable=False),
    *_message_columns(),
    Column("slot", SmallInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("pillarbox_queue_mailbox", "consumer", "position"),
)

# --- idempotency ------------------------------------------------------------------------------------------------------
consumers = _table(
    "consumers",
    Column("consumer", Name, primary_key=True),
    Column("channels", Text, nullable=False),
    Column("registered_at", BigInteger, nullable=False),
)
inbox = _table(
    "inbox",
    Column("consumer", Name, primary_key=True),
    Column("message_id", Name, primary_key=True),
    Column("processed_at", BigInteger, nullable=False),
    Column("recorded_by", BigInteger),  # the run's token, where an INSERT cannot tell which of its rows are new
    Index("pillarbox_inbox_processed", "processed_at"),
)
attempts = _table(
    "attempts",
    Column("consumer", Name, primary_key=True),
    Column("message_id", Name, primary_key=True),
    Column("worker", Name, nullable=False),
    Column("trial", SmallInteger, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("started_at", BigInteger, nullable=False),
)
claims = _table(
    "claims",
    Column("consumer", Name, primary_key=True),
    Column("message_id", Name, primary_key=True),
    Column("token", Name, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
applied_operations = _table(
    "applied_operations",
    Column("scope", Name, primary_key=True),
    Column("operation_id", Key, primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("applied_at", BigInteger, nullable=False),
    Index("pillarbox_applied_operations_at", "applied_at"),
)
outside_calls = _table(
    "outside_calls",
    Column("call_key", Key, primary_key=True),
    Column("state", String(10), nullable=False),
    Column("token", Name, nullable=False),
    Column("held_until", BigInteger, nullable=False),
    Column("begun_at", BigInteger, nullable=False),
    Column("answer", LargeBinary),
    Column("answered_at", BigInteger),  # the last time
    CheckConstraint("state IN ('begun', 'answered')", name="pillarbox_outside_calls_state"),
    Index("pillarbox_outside_calls_answered", "state", "answered_at"),
)

# --- holding ----------------------------------------------------------------------------------------------------------
holds = _table(
    "holds",
    Column("consumer", Name, primary_key=True),
    Column("hold_key", Key, primary_key=True),
    Column("state", String(10), nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("lease_token", Name),
    Column("lease_until", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
    CheckConstraint("state IN ('waiting', 'blocked')", name="pillarbox_holds_state"),
    Index("pillarbox_holds_due", "consumer", "state", "due_at"),  # the blocked ones, as many as dead letters, apart
    Index("pillarbox_holds_lease", "consumer", "lease_token", postgresql_where=text("lease_token IS NOT NULL")),
)
held = _table(
    "held",
    _position(),
    Column("consumer", Name, nullable=False),
    Column("hold_key", Key, nullable=False),
    *_message_columns(),
    Column("state", String(10), nullable=False),
    Column("rank", SmallInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("history", Text, nullable=False),
    CheckConstraint("state IN ('retrying', 'held', 'replaying')", name="pillarbox_held_state"),
    UniqueConstraint("consumer", "message_id", name="pillarbox_held_message"),
    Index("pillarbox_held_key", "consumer", "hold_key", "rank", "position"),
)

# --- numbers at the consumer ------------------------------------------------------------------------------------------
key_positions = _table(
    "key_positions",
    Column("consumer", Name, primary_key=True),
    Column("channel", Name, primary_key=True),
    Column("message_key", Key, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),  # -1: the first number is not decided yet
    Column("admitted", BigInteger, nullable=False),
    Column("buffered", Integer, nullable=False),
    Column("moved_at", BigInteger, nullable=False),
    Column("told_at", BigInteger),
)
early = _table(
    "early",
    _position(),
    Column("consumer", Name, nullable=False),
    Column("hold_key", Key, nullable=False),
    *_message_columns(),
    Column("epoch", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("history", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    UniqueConstraint("consumer", "message_id", name="pillarbox_early_message"),
    Index("pillarbox_early_line", "consumer", "channel", "message_key", "epoch", "number"),
)
skipped_numbers = _table(
    "skipped_numbers",
    _position(),
    Column("consumer", Name, nullable=False),
    Column("channel", Name, nullable=False),
    Column("message_key", Key, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("skipped_at", BigInteger, nullable=False),
    Column("skipped_by", Name, nullable=False),
    Column("skipped_because", Text, nullable=False),
    Index("pillarbox_skipped_numbers_line", "consumer", "channel", "message_key"),
)

# --- causes at the consumer -------------------------------------------------------------------------------------------
waits = _table(  # a message at the head of a hold, and each cause that it waits for
    "waits",
    Column("consumer", Name, primary_key=True),
    Column("message_id", Name, primary_key=True),
    Column("cause_id", Name, primary_key=True),
    Column("hold_key", Key, nullable=False),
    Column("since", BigInteger, nullable=False),
    Index("pillarbox_waits_cause", "consumer", "cause_id"),
    Index("pillarbox_waits_hold", "consumer", "hold_key"),
)

# --- dead letters -----------------------------------------------------------------------------------------------------
dead_letters = _table(
    "dead_letters",
    _position(),
    Column("consumer", Name, nullable=False),
    Column("hold_key", Key, nullable=False),
    *_message_columns(),
    Column("state", String(10), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", String(20), nullable=False),
    Column("history", Text, nullable=False),
    Column("stack", Text, nullable=False),
    Column("fingerprint", Name, nullable=False),
    Column("first_failed_at", BigInteger, nullable=False),
    Column("last_failed_at", BigInteger, nullable=False),
    Column("replays", Integer, nullable=False),
    CheckConstraint("state IN ('dead', 'replaying', 'resolved', 'discarded')", name="pillarbox_dead_letters_state"),
    UniqueConstraint("consumer", "message_id", name="pillarbox_dead_letters_message"),
    Index("pillarbox_dead_letters_state_position", "state", "position", postgresql_where=text("state != 'replaying'")),
    _on_postgresql(Index("pillarbox_dead_letters_replaying", "position", postgresql_where=text("state = 'replaying'"))),
)

# --- breakers ---------------------------------------------------------------------------------------------------------
breakers = _table(
    "breakers",
    Column("dependency", Name, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("state", String(10), nullable=False),
    Column("openings", Integer, nullable=False),
    Column("wait_until", BigInteger, nullable=False),
    Column("probe", Name),
    Column("reason", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("needed_by", Text, nullable=False),
    CheckConstraint("state IN ('closed', 'open', 'half_open')", name="pillarbox_breakers_state"),
)
