"""Migrations: the tables of each schema version, applied once, by whoever comes first.

Source: procrastinate's numbered migrations with a version table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import (
    ClauseElement,
    DDLElement,
    Dialect,
    Executable,
    Index,
    Integer,
    Table,
    bindparam,
    exists,
    func,
    literal_column,
    select,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from pillarbox.errors import SchemaVersionError
from pillarbox.relational.absence import says_that_tables_are_absent
from pillarbox.relational.expressions import insert_into, now_us
from pillarbox.relational.flow_tables import FLOW_TABLES
from pillarbox.relational.operator_tables import LETTER_INDEXES, OPERATOR_TABLES
from pillarbox.relational.saga_tables import SAGA_TABLES
from pillarbox.relational.tables import (
    applied_operations,
    breakers,
    early,
    key_numbers,
    key_positions,
    metadata,
    outside_calls,
    schema_version,
    skipped_numbers,
    waits,
)
from pillarbox.transaction import Execute, Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema.

    Attributes:
        version: its number; steps are applied in order, without holes.
        title: what it does, in a few words.
        tables: the tables that it creates.
        indexes: the indexes that it creates on tables of earlier steps.
    """

    version: int
    title: str
    tables: Sequence[Table]
    indexes: Sequence[Index] = ()

    def statements(self, dialect: str) -> Sequence[DDLElement]:
        """Return the DDL of this step for ``dialect``, safe to repeat."""
        return _statements(self, dialect)


@cache
def _statements(migration: Migration, dialect: str) -> Sequence[DDLElement]:
    """Make them once: what goes past SQLAlchemy is compiled once for each object."""
    made: list[DDLElement] = []
    for table in migration.tables:
        made.append(CreateTable(table, if_not_exists=True))
        completed_by: Mapping[str, DDLElement] = table.info.get("completed_by", {})
        if dialect in completed_by:
            made.append(completed_by[dialect])
        made += [
            CreateIndex(index, if_not_exists=True)
            for index in sorted(table.indexes, key=lambda index: str(index.name))
            if index.info.get("dialect", dialect) == dialect and index not in LATER_INDEXES
        ]
    return (*made, *(CreateIndex(index, if_not_exists=True) for index in migration.indexes))


LATER_INDEXES = frozenset(LETTER_INDEXES)

SECOND = (
    key_numbers,
    key_positions,
    early,
    skipped_numbers,
    waits,
    applied_operations,
    outside_calls,
)
THIRD = (breakers,)
FOURTH = OPERATOR_TABLES
FIFTH = SAGA_TABLES
SIXTH = FLOW_TABLES
FIRST = tuple(table for table in metadata.sorted_tables if table not in (*SECOND, *THIRD, *FOURTH, *FIFTH, *SIXTH))
MIGRATIONS = (
    Migration(version=1, title="first tables", tables=FIRST),
    Migration(version=2, title="order by numbers and causes, operations and outside calls", tables=SECOND),
    Migration(version=3, title="breakers of dependencies", tables=THIRD),
    Migration(version=4, title="work with dead letters", tables=FOURTH, indexes=LETTER_INDEXES),
    Migration(version=5, title="sagas", tables=FIFTH),
    Migration(version=6, title="flows", tables=SIXTH),
)
CURRENT_VERSION = MIGRATIONS[-1].version

CREATE_VERSION_TABLE = CreateTable(schema_version, if_not_exists=True)
APPLIED = select(func.max(schema_version.c.version))
NOTE_APPLIED = insert_into(schema_version).values(version=bindparam("number"), applied_at=now_us())


def migrate(dialect: str, lock: Executable | None) -> Program[tuple[Migration, ...]]:
    """Apply what is missing, in one transaction; return the steps applied.

    Args:
        dialect: what the database speaks, by its name in SQLAlchemy.
        lock: taken first, so that of several runs at once one works and the others find nothing left to do;
            ``None`` where the transaction itself excludes others.
    """
    if lock is not None:
        yield Execute(lock)
    yield Execute(CREATE_VERSION_TABLE)
    found = (yield Execute(APPLIED))[0][0] or 0
    missing = tuple(migration for migration in MIGRATIONS if migration.version > found)
    for migration in missing:
        for statement in migration.statements(dialect):
            yield Execute(statement)
        yield Execute(NOTE_APPLIED, {"number": migration.version})
    return missing


def absent_tables() -> SchemaVersionError:
    """Return the error of a database without our tables."""
    return SchemaVersionError(found=None, expected=CURRENT_VERSION)


def check_version() -> Program[None]:
    """Make sure that the database has the schema of this release.

    Raises:
        SchemaVersionError: it has another one, or none.
    """
    try:
        found = (yield Execute(APPLIED))[0][0]
    except DBAPIError as error:
        if not says_that_tables_are_absent(error):
            raise
        raise absent_tables() from error
    if found != CURRENT_VERSION:
        raise SchemaVersionError(found=found, expected=CURRENT_VERSION)


def as_sql(dialect: Dialect) -> str:
    """Return all migrations as an SQL script for people who apply their own."""
    lines = [f"{_text(CREATE_VERSION_TABLE, dialect)};"]
    for migration in MIGRATIONS:
        lines.append(f"\n-- {migration.version}: {migration.title}")
        lines += [f"{_text(statement, dialect)};" for statement in migration.statements(dialect.name)]
        lines.append(f"{_text(_note_once(migration.version), dialect)};")
    return "\n".join(lines) + "\n"


def _note_once(version: int) -> ClauseElement:
    """Return a statement that notes ``version`` as applied, safe to repeat."""
    noted = exists().where(schema_version.c.version == literal_column(str(version), Integer))
    values = select(literal_column(str(version), Integer), now_us()).where(~noted)
    return insert_into(schema_version).from_select(["version", "applied_at"], values)


def _text(statement: ClauseElement, dialect: Dialect) -> str:
    return str(statement.compile(dialect=dialect)).strip()
