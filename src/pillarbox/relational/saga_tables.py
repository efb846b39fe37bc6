"""The tables of sagas: instances, definitions that were run, what participants have done, and semantic locks."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, String, Table

from pillarbox.relational.mysql_types import TABLE_OPTIONS
from pillarbox.relational.tables import PREFIX, Key, Name, Text, metadata


def _table(name: str, *parts: Any) -> Table:
    return Table(PREFIX + name, metadata, *parts, sqlite_autoincrement=True, **TABLE_OPTIONS)


saga_instances = _table(
    "saga_instances",
    Column("saga", Name, primary_key=True),
    Column("saga_id", Key, primary_key=True),
    Column("service", Name, nullable=False),
    Column("definition", Name, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("steps", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("content_type", String(100), nullable=False),
    Column("journal", Text, nullable=False),
    Column("correlation_id", Key, nullable=False),
    Column("serial", BigInteger, nullable=False),
    Column("due_at", BigInteger),
    Column("started_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    CheckConstraint(
        "state IN ('running', 'compensating', 'completed', 'compensated', 'needs_attention')",
        name="pillarbox_saga_instances_state",
    ),
    Index("pillarbox_saga_instances_due", "service", "due_at"),
    Index("pillarbox_saga_instances_state_changed", "state", "changed_at"),
)
saga_definitions = _table(
    "saga_definitions",
    Column("saga", Name, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("graph", Text, nullable=False),
    Column("noted_at", BigInteger, nullable=False),
)
saga_participations = _table(  # what a participant has done for sagas of others, and what it answered
    "saga_participations",
    Column("service", Name, primary_key=True),
    Column("request", Key, primary_key=True),
    Column("state", String(10), nullable=False),
    Column("done_reply", Text),
    Column("undo_reply", Text),
    Column("changed_at", BigInteger, nullable=False),
    CheckConstraint("state IN ('asked', 'undone')", name="pillarbox_saga_participations_state"),
    Index("pillarbox_saga_participations_changed", "changed_at"),
)
saga_locks = _table(
    "saga_locks",
    Column("resource", Key, primary_key=True),
    Column("owner", Key, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("pillarbox_saga_locks_owner", "owner"),
)

SAGA_TABLES = (saga_instances, saga_definitions, saga_participations, saga_locks)
