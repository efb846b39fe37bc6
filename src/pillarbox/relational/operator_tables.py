"""The tables of what operators see and decide: groups of dead letters, edits, replay runs, acts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    SmallInteger,
    String,
    Table,
    literal_column,
)

from pillarbox.deadletter import DeadLetterState
from pillarbox.relational.mysql_types import TABLE_OPTIONS
from pillarbox.relational.tables import PREFIX, Key, LargeBinary, Name, Position, Text, dead_letters, metadata


def _table(name: str, *parts: Any) -> Table:
    return Table(PREFIX + name, metadata, *parts, sqlite_autoincrement=True, **TABLE_OPTIONS)


dead_letter_groups = _table(
    "dead_letter_groups",
    Column("consumer", Name, primary_key=True),
    Column("fingerprint", Name, primary_key=True),
    Column("type", Name, nullable=False),
    Column("error_type", Name, nullable=False),
    Column("example", Text, nullable=False),
    Column("state", String(10), nullable=False),
    Column("regressed", SmallInteger, nullable=False),
    Column("note", Text, nullable=False),
    Column("arrivals", BigInteger, nullable=False),
    Column("dead", BigInteger, nullable=False),
    Column("first_seen", BigInteger, nullable=False),
    Column("last_seen", BigInteger, nullable=False),
    CheckConstraint("state IN ('open', 'resolved', 'ignored')", name="pillarbox_dead_letter_groups_state"),
    Index("pillarbox_dead_letter_groups_seen", "last_seen"),
)
dead_letter_edits = _table(  # the body before each edit; the first is what was delivered
    "dead_letter_edits",
    Column("position", Position, Identity(cache=1), primary_key=True),
    Column("letter", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("diff", Text, nullable=False),
    Column("edited_by", Name, nullable=False),
    Column("reason", Text, nullable=False),
    Column("edited_at", BigInteger, nullable=False),
    Index("pillarbox_dead_letter_edits_letter", "letter", "position"),
)
replay_runs = _table(
    "replay_runs",
    Column("run", Name, primary_key=True),
    Column("state", String(10), nullable=False),
    Column("wanted", Text, nullable=False),
    Column("requested_by", Name, nullable=False),
    Column("per_second", Integer),
    Column("canary", Integer, nullable=False),
    Column("stop_at_permille", Integer),
    Column("forced", SmallInteger, nullable=False),
    Column("within_us", BigInteger),
    Column("reached", BigInteger, nullable=False),  # of its letters, in their order, those up to here had their turn
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("ended_because", Text, nullable=False),
    CheckConstraint("state IN ('open', 'finished', 'stopped', 'cancelled')", name="pillarbox_replay_runs_state"),
    Index("pillarbox_replay_runs_state_created", "state", "created_at"),
)
replay_items = _table(  # the frozen set of a run; ``replays`` as it was then, so that each is replayed once
    # what is pending and not beyond what the run has reached is enqueued: nothing is written for each letter
    "replay_items",
    Column("run", Name, primary_key=True),
    Column("letter", BigInteger, primary_key=True, autoincrement=False),
    Column("replays", Integer, nullable=False),
    Column("state", String(10), nullable=False),
    CheckConstraint("state IN ('pending', 'resolved', 'failed', 'passed')", name="pillarbox_replay_items_state"),
)
operator_acts = _table(
    "operator_acts",
    Column("position", Position, Identity(cache=1), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("acted_by", Name, nullable=False),
    Column("what", Name, nullable=False),
    Column("kind", Name, nullable=False),
    Column("subject", Key, nullable=False),
    Column("consumer", Name),
    Column("reason", Text, nullable=False),
    Column("details", Text, nullable=False),
    Index("pillarbox_operator_acts_subject", "kind", "subject", "position"),
)

OPERATOR_TABLES = (dead_letter_groups, dead_letter_edits, replay_runs, replay_items, operator_acts)
_RESTS = dead_letters.c.state != literal_column(f"'{DeadLetterState.REPLAYING}'")
_BLOCKS = dead_letters.c.state == literal_column(f"'{DeadLetterState.DEAD}'")


def _listed_by(name: str, by: Column[Any]) -> Index:
    """Return an index for lists by ``by`` and a state; on PostgreSQL what is being replayed is not in it."""
    columns = (by, dead_letters.c.state, dead_letters.c.position)
    return Index(f"pillarbox_dead_letters_{name}", *columns, postgresql_where=_RESTS)


LETTER_INDEXES = (
    _listed_by("consumer", dead_letters.c.consumer),
    _listed_by("group", dead_letters.c.fingerprint),
    _listed_by("type", dead_letters.c.type),
    Index(
        "pillarbox_dead_letters_key",
        dead_letters.c.message_key,
        dead_letters.c.position,
        postgresql_where=_RESTS,
    ),
    Index(
        "pillarbox_dead_letters_hold",
        dead_letters.c.consumer,
        dead_letters.c.hold_key,
        postgresql_where=_BLOCKS,
    ),
    Index(
        "pillarbox_dead_letters_failed",
        dead_letters.c.state,
        dead_letters.c.last_failed_at,
        dead_letters.c.consumer,
        postgresql_where=_RESTS,
    ),
)
