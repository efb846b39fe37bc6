"""The tables of flows: what was seen, where each process stands, and who takes part."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, String, Table

from pillarbox.relational.mysql_types import TABLE_OPTIONS
from pillarbox.relational.tables import PREFIX, Name, Text, metadata


def _table(name: str, *parts: Any) -> Table:
    return Table(PREFIX + name, metadata, *parts, **TABLE_OPTIONS)


flow_messages = _table(
    "flow_messages",
    Column("correlation_id", Name, primary_key=True),
    Column("message_id", Name, primary_key=True),
    Column("type", Name, nullable=False),
    Column("channel", Name, nullable=False),
    Column("service", Name, nullable=False),
    Column("causation_id", Name),
    Column("cause_type", Name),
    Column("cause_channel", Name),
    Column("hop", Integer, nullable=False),
    Column("published_at", BigInteger),
    Column("seen_at", BigInteger, nullable=False),
    Index("pillarbox_flow_messages_seen", "seen_at"),
)
flow_instances = _table(
    "flow_instances",
    Column("flow", Name, primary_key=True),
    Column("correlation_id", Name, primary_key=True),
    Column("state", String(10), nullable=False),
    Column("started_at", BigInteger),
    Column("due_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("ended_by", Name),
    Column("stuck_at", BigInteger),
    Column("told", Text, nullable=False),
    Column("missing", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("touched_at", BigInteger, nullable=False),
    CheckConstraint("state IN ('waiting', 'running', 'stuck', 'ended')", name="pillarbox_flow_instances_state"),
    Index("pillarbox_flow_instances_due", "state", "due_at"),
    Index("pillarbox_flow_instances_touched", "state", "touched_at"),
)
flow_participants = _table(
    "flow_participants",
    Column("consumer", Name, primary_key=True),
    Column("service", Name, nullable=False),
    Column("facts", Text, nullable=False),
    Column("declared_at", BigInteger, nullable=False),
)

FLOW_TABLES = (flow_messages, flow_instances, flow_participants)
