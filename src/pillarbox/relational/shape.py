"""Whether a database has the tables of this release: what it has beside what it should have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pillarbox.control.diagnosis import Finding, Severity
from pillarbox.relational.migrations import CURRENT_VERSION
from pillarbox.relational.tables import metadata

MIGRATE = "pillarbox migrate"
_UNMADE = "publishing and handling fail until the tables are those of this release"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaFacts:
    """The tables of ours that a database has.

    Attributes:
        version: what the table of versions says; ``None`` where there is none.
        columns: the columns of each table.
        indexes: the names of all indexes on them that can be used.
    """

    version: int | None
    columns: Mapping[str, AbstractSet[str]]
    indexes: AbstractSet[str]


def schema_findings(facts: SchemaFacts, dialect: str) -> Iterator[Finding]:
    """Compare ``facts`` with the tables of this release for ``dialect``."""
    if facts.version is None and not facts.columns:
        yield _finding(
            "schema-version", Severity.ERROR, "there are no tables of Pillarbox", means=_UNMADE, do=f"run: {MIGRATE}"
        )
        return
    if facts.version != CURRENT_VERSION:
        what = f"the schema has version {facts.version}, this release needs {CURRENT_VERSION}"
        do = f"run: {MIGRATE}" if (facts.version or 0) < CURRENT_VERSION else "upgrade Pillarbox in this process"
        yield _finding("schema-version", Severity.ERROR, what, means="a box refuses to open on it", do=do)
    else:
        yield Finding(
            code="schema-version",
            severity=Severity.OK,
            subject="schema",
            what=f"version {CURRENT_VERSION}, as it must be",
        )
    yield from _missing_columns(facts)
    yield from _missing_indexes(facts, dialect)


def _missing_columns(facts: SchemaFacts) -> Iterator[Finding]:
    for table in metadata.sorted_tables:
        there = facts.columns.get(table.name)
        lacking = None if there is None else sorted({column.name for column in table.columns} - there)
        if lacking is None:
            what = f"the table {table.name} is missing"
            yield _finding(
                "missing-table", Severity.ERROR, what, means=_UNMADE, do=_restore("table"), subject=table.name
            )
        elif lacking:
            what = f"the table {table.name} lacks {', '.join(lacking)}"
            yield _finding(
                "missing-column", Severity.ERROR, what, means=_UNMADE, do=_restore("column"), subject=table.name
            )


def _missing_indexes(facts: SchemaFacts, dialect: str) -> Iterator[Finding]:
    for table in metadata.sorted_tables:
        if table.name not in facts.columns:
            continue
        wanted = [str(index.name) for index in table.indexes if index.info.get("dialect", dialect) == dialect]
        for name in sorted(set(wanted) - facts.indexes):
            yield _finding(
                "missing-index",
                Severity.WARNING,
                f"the index {name} is missing or invalid",
                means="each pass reads the whole table: the fuller it is, the slower everything becomes",
                do=f"drop it if it is there, and {_restore('index')}",
                subject=table.name,
            )


def _restore(part: str) -> str:
    return f"create the {part} again; its statement is printed by: {MIGRATE} --sql"


def _finding(code: str, severity: Severity, what: str, *, means: str, do: str, subject: str = "schema") -> Finding:
    return Finding(code=code, severity=severity, subject=subject, what=what, means=means, do=do)


def tables_of(rows: Sequence[tuple[str, str]]) -> dict[str, set[str]]:
    """Collect (table, column) into the columns of each table."""
    tables: dict[str, set[str]] = {}
    for table, column in rows:
        tables.setdefault(table, set()).add(column)
    return tables
