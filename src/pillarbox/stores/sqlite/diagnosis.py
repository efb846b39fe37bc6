"""The doctor of SQLite: what a file, its library and our connections are like, and what that means for messages.

The rows of RELIABILITY behind the codes: ``synchronous`` A8, ``autoincrement`` B16, ``busy-timeout`` B17,
``version`` B18, ``file-system`` B19.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from sqlalchemy import Connection, text

from pillarbox.control.diagnosis import Diagnosable, Finding, Severity, problem, well
from pillarbox.relational import RelationalStore, metadata
from pillarbox.relational.shape import SchemaFacts, schema_findings, tables_of
from pillarbox.transaction import Execute, Program, Rows, drive_sync

WITHOUT_RESET_BUG = (3, 51, 3)
SHORTEST_BUSY_MS = 5_000
FULL = 2
"""What ``PRAGMA synchronous`` answers for FULL; 3 is EXTRA."""
OVER_A_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"})
MOUNTS = Path("/proc/self/mountinfo")
MOST_COMPLAINTS = 20

JOURNAL, SYNCHRONOUS, BUSY, FILES = (
    text(f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "busy_timeout", "database_list")
)
COLUMNS = text(
    "SELECT t.name, c.name FROM sqlite_master t JOIN pragma_table_info(t.name) c "
    "WHERE t.type = 'table' AND t.name LIKE 'pillarbox\\_%' ESCAPE '\\'"
)
OBJECTS = text(
    "SELECT type, name, coalesce(sql, '') FROM sqlite_master WHERE tbl_name LIKE 'pillarbox\\_%' ESCAPE '\\'"
)
SCHEMA_VERSION = text("SELECT max(version) FROM pillarbox_schema_version")
QUICK_CHECK = text(f"PRAGMA quick_check({MOST_COMPLAINTS})")


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteFacts:
    """Everything that the doctor judges.

    Attributes:
        synchronous: what our connections have: 2 is FULL.
        tables: the statement that made each of our tables.
        file: where the database is; empty in memory.
        file_system: the kind of file system that it is on; ``None`` where that cannot be told.
        complaints: what a check of the whole file said; ``None`` if there was none.
    """

    version: tuple[int, ...]
    journal_mode: str
    synchronous: int
    busy_timeout_ms: int
    schema: SchemaFacts
    tables: Mapping[str, str]
    file: str
    file_system: str | None
    complaints: Sequence[str] | None


class SqliteDiagnosis(Diagnosable):
    """Looks at the file of a store, on a connection like the store's own; takes no lock on it."""

    def __init__(self, store: RelationalStore) -> None:
        """Look at ``store``."""
        self._store = store

    async def diagnose(self, *, deep: bool) -> Sequence[Finding]:
        engine = self._store.engine.execution_options(isolation_level="AUTOCOMMIT")  # or it would take the write lock
        async with engine.connect() as connection:
            facts = await connection.run_sync(lambda lent: drive_sync(read_facts(deep=deep), partial(_rows, lent)))
        return judge_sqlite(facts)


def _rows(connection: Connection, wanted: Execute) -> Rows:
    return connection.execute(wanted.statement).all()


def read_facts(*, deep: bool) -> Program[SqliteFacts]:
    """Read what the file and this connection are like; ``deep`` reads the whole file."""
    columns = tables_of([(str(table), str(column)) for table, column in (yield Execute(COLUMNS))])
    objects = yield Execute(OBJECTS)
    version = (yield Execute(SCHEMA_VERSION))[0][0] if "pillarbox_schema_version" in columns else None
    indexes = frozenset(str(name) for kind, name, _ in objects if kind == "index")
    file = next((str(row[2] or "") for row in (yield Execute(FILES)) if row[1] == "main"), "")
    complaints = [str(row[0]) for row in (yield Execute(QUICK_CHECK))] if deep else None
    return SqliteFacts(
        version=sqlite3.sqlite_version_info,
        journal_mode=str((yield Execute(JOURNAL))[0][0]),
        synchronous=int((yield Execute(SYNCHRONOUS))[0][0]),
        busy_timeout_ms=int((yield Execute(BUSY))[0][0]),
        schema=SchemaFacts(version=version, columns=columns, indexes=indexes),
        tables={str(name): str(sql) for kind, name, sql in objects if kind == "table"},
        file=file if Path(file).is_file() else "",
        file_system=_file_system(file),
        complaints=complaints,
    )


def _file_system(file: str) -> str | None:
    if not Path(file).is_file() or not MOUNTS.exists():
        return None
    return file_system_of(Path(file).resolve(), MOUNTS.read_text(encoding="utf-8", errors="replace"))


def file_system_of(file: PurePath, mounts: str) -> str | None:
    """Return the kind of file system that ``file`` is on, by what ``/proc/self/mountinfo`` says."""
    found: tuple[int, str] | None = None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        folder = PurePath(fields[4].replace("\\040", " "))
        if file.is_relative_to(folder) and (found is None or len(folder.parts) >= found[0]):
            found = (len(folder.parts), after.split(" ")[0])
    return None if found is None else found[1]


def judge_sqlite(facts: SqliteFacts) -> list[Finding]:
    """Return every finding, good and bad."""
    return [
        _version(facts),
        *_connection(facts),
        *schema_findings(facts.schema, "sqlite"),
        *_autoincrement(facts),
        *_file(facts),
        *_complaints(facts),
    ]


def _version(facts: SqliteFacts) -> Finding:
    number = ".".join(map(str, facts.version))
    if facts.version >= WITHOUT_RESET_BUG:
        return well("version", "library", f"SQLite {number}")
    means = "in WAL mode a checkpoint that meets a writer of another connection can, rarely, corrupt the file"
    do = (
        "use a Python with SQLite 3.51.3 or newer, or one to which your distribution has ported the fix; "
        "until then keep backups"
    )
    return problem("version", Severity.WARNING, "library", f"SQLite {number} has the WAL-reset bug", means=means, do=do)


def _connection(facts: SqliteFacts) -> Iterator[Finding]:
    if not facts.file:
        means = "everything ends with the process"
        yield problem(
            "in-memory", Severity.NOTICE, "database", "in memory", means=means, do="name a file where that matters"
        )
    elif facts.journal_mode != "wal":
        means = "readers and the writer wait for each other: relays, consumers and producers become slow"
        do = "let nothing set another journal mode; close all connections, then PRAGMA journal_mode = WAL"
        yield problem("journal-mode", Severity.WARNING, "journal_mode", facts.journal_mode, means=means, do=do)
    else:
        yield well("journal-mode", "journal_mode", "wal")
    if facts.synchronous < FULL:
        means = "a power cut takes back commits that were reported, with their messages, after others were told"
        do = "PRAGMA synchronous = FULL on every connection that publishes, yours too"
        yield problem("synchronous", Severity.WARNING, "synchronous", str(facts.synchronous), means=means, do=do)
    else:
        yield well("synchronous", "synchronous", "FULL on our connections; set it on yours, too")
    if facts.busy_timeout_ms < SHORTEST_BUSY_MS:
        means = "a transaction that meets another one fails at once instead of waiting for its turn"
        do = f"PRAGMA busy_timeout = {SHORTEST_BUSY_MS} or more"
        yield problem(
            "busy-timeout", Severity.WARNING, "busy_timeout", f"{facts.busy_timeout_ms} ms", means=means, do=do
        )
    else:
        yield well("busy-timeout", "busy_timeout", f"{facts.busy_timeout_ms} ms")


def _autoincrement(facts: SqliteFacts) -> Iterator[Finding]:
    counted = [table.name for table in metadata.sorted_tables if any(column.identity for column in table.columns)]
    reusing = [name for name in counted if name in facts.tables and "AUTOINCREMENT" not in facts.tables[name].upper()]
    for name in reusing:
        what = f"{name} was made without AUTOINCREMENT"
        means = "positions are used again once the last row is deleted, and a cursor behind them skips records"
        do = "create it again by: pillarbox migrate --sql, and copy its rows"
        yield problem("autoincrement", Severity.ERROR, name, what, means=means, do=do)
    if facts.tables and not reusing:
        yield well("autoincrement", "positions", "no position is used twice")


def _file(facts: SqliteFacts) -> Iterator[Finding]:
    if facts.file_system in OVER_A_NETWORK:
        means = "locks do not hold over a network: two writers at once corrupt the file"
        what = f"{facts.file} is on {facts.file_system}"
        yield problem(
            "file-system", Severity.ERROR, "file", what, means=means, do="move it to a local disk, or use PostgreSQL"
        )
    elif facts.file_system is not None:
        yield well("file-system", "file", f"on {facts.file_system}")


def _complaints(facts: SqliteFacts) -> Iterator[Finding]:
    if facts.complaints is None:
        return
    if list(facts.complaints) == ["ok"]:
        yield well("integrity", "file", "a quick check of all of it found nothing")
        return
    what = f"it is damaged: {'; '.join(facts.complaints)}"
    means = "rows can be missing or read wrongly, messages among them"
    yield problem(
        "integrity", Severity.ERROR, "file", what, means=means, do="stop everything; restore a backup, or try .recover"
    )
