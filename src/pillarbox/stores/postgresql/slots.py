"""Publications and replication slots: how they are found, made and dropped."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import BigInteger, Boolean, Integer, String, TextClause, bindparam, text

from pillarbox.errors import ConfigurationError, InternalError
from pillarbox.relay.log_reader import Slot
from pillarbox.stores.postgresql.pgoutput import lsn_of
from pillarbox.transaction import Execute, Program

PARENTHESES_SINCE, FAILOVER_SINCE, MESSAGES_SINCE = 150_000, 170_000, 140_000
"""The versions of PostgreSQL that know the words."""

_slot = bindparam("slot", type_=String)
_publication = bindparam("publication", type_=String)

FACTS = text(
    "SELECT current_setting('wal_level') AS wal_level, current_database() AS database,"
    " CAST(CAST(to_regclass('pillarbox_outbox') AS oid) AS bigint) AS outbox"
).columns(wal_level=String, database=String, outbox=BigInteger)
FIND_SLOT = (
    text(
        "SELECT plugin, database, wal_status, CAST(confirmed_flush_lsn AS text) AS confirmed,"
        " active_pid FROM pg_replication_slots WHERE slot_name = :slot"
    )
    .bindparams(_slot)
    .columns(plugin=String, database=String, wal_status=String, confirmed=String, active_pid=Integer)
)
FIND_PUBLICATION = (  # a filter of rows exists since PostgreSQL 15, hence the detour
    text(
        "SELECT p.pubinsert, p.pubviaroot, coalesce((SELECT to_jsonb(r) ->> 'prqual' IS NULL"
        " AND to_jsonb(r) ->> 'prattrs' IS NULL FROM pg_publication_rel AS r"
        " WHERE r.prpubid = p.oid AND r.prrelid = to_regclass('pillarbox_outbox')), false) AS is_whole"
        " FROM pg_publication AS p WHERE p.pubname = :publication"
    )
    .bindparams(_publication)
    .columns(pubinsert=Boolean, pubviaroot=Boolean, is_whole=Boolean)
)
DROP_SLOT = text(
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
    " WHERE slot_name = :slot AND database = current_database() AND plugin = 'pgoutput'"
).bindparams(_slot)
RESTAMP = text(  # index (transaction_id, position); rows of a restored dump bear numbers of another cluster
    "UPDATE pillarbox_outbox SET transaction_id = DEFAULT"
    " WHERE transaction_id >= pg_snapshot_xmin(pg_current_snapshot())"
)
REPEATABLE_READ = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
CURRENT_SNAPSHOT = text("SELECT CAST(pg_current_snapshot() AS text) AS snapshot").columns(snapshot=String)
_SNAPSHOT_NAME = re.compile(r"[0-9A-F-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What does not change while a relay works.

    Attributes:
        outbox: the object id of the table.
    """

    database: str
    outbox: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSlot:
    """A slot, and who reads it."""

    slot: Slot
    active_pid: int | None


def find_facts() -> Program[Facts]:
    """Return the facts.

    Raises:
        ConfigurationError: the server writes no log that can be decoded, or there is no outbox.
    """
    wal_level, database, outbox = (yield Execute(FACTS))[0]
    if wal_level != "logical":
        raise ConfigurationError(
            f"a relay of the kind 'log' needs wal_level = logical, and the server has {wal_level!r}; set it in "
            "postgresql.conf and restart the server, or choose the kind 'polling' or 'sequence'"
        )
    if outbox is None:
        raise ConfigurationError("there is no table pillarbox_outbox; create it with: pillarbox migrate")
    return Facts(database=database, outbox=outbox)


def find_slot(name: str, *, database: str) -> Program[FoundSlot | None]:
    """Return the slot of this database.

    Raises:
        ConfigurationError: the name is taken by a slot that is not for us.
    """
    found = yield Execute(FIND_SLOT, {"slot": name})
    if not found:
        return None
    plugin, where, wal_status, confirmed, active_pid = found[0]
    if where != database or plugin != "pgoutput":
        raise ConfigurationError(
            f"the replication slot {name!r} belongs to something else (database {where}, plugin {plugin}); "
            "name another one: RelaySettings(log=LogSettings(slot=…))"
        )
    is_lost = wal_status == "lost" or confirmed is None
    return FoundSlot(
        slot=Slot(confirmed_lsn=0 if confirmed is None else lsn_of(confirmed), is_lost=is_lost), active_pid=active_pid
    )


def is_published(publication: str) -> Program[bool]:
    """Tell whether the publication carries every insert into the outbox, as of the table and not of its partitions."""
    return [tuple(row) for row in (yield Execute(FIND_PUBLICATION, {"publication": publication}))] == [
        (True, True, True)
    ]


def drop_slot(name: str) -> Program[None]:
    """Drop the slot if it is there and of this database."""
    yield Execute(DROP_SLOT, {"slot": name})


def publish_outbox(publication: str) -> Program[None]:
    """Make the publication as it must be; what somebody else made of it is replaced."""
    if (yield from is_published(publication)):
        return
    name = f'"{publication}"'  # checked where it was set
    yield Execute(text(f"DROP PUBLICATION IF EXISTS {name}"))
    yield Execute(
        text(
            f"CREATE PUBLICATION {name} FOR TABLE pillarbox_outbox"
            " WITH (publish = 'insert', publish_via_partition_root = true)"
        )
    )


def restamp() -> Program[None]:
    """Give records whose transaction's number lies in the future the present one, so that snapshots see them.

    Numbers below the oldest transaction under way are seen by every later snapshot; the few of recent commits are
    stamped anew too, which changes nothing for them.
    """
    yield Execute(RESTAMP)


def create_slot_command(name: str, *, failover: bool, server_version: int) -> str:
    """Return the command that makes the slot and exports a snapshot that sees what the slot will not send."""
    head = f'CREATE_REPLICATION_SLOT "{name}" LOGICAL pgoutput'
    if server_version < PARENTHESES_SINCE:
        return f"{head} EXPORT_SNAPSHOT"
    words = ["SNAPSHOT 'export'"]
    if failover and server_version >= FAILOVER_SINCE:
        words.append("FAILOVER true")
    return f"{head} ({', '.join(words)})"


def start_command(name: str, *, publication: str, at: str, server_version: int) -> str:
    """Return the command that begins to read."""
    words = ["proto_version '1'", f"publication_names '\"{publication}\"'"]
    if server_version >= MESSAGES_SINCE:
        words.append("messages 'true'")
    return f'START_REPLICATION SLOT "{name}" LOGICAL {at} ({", ".join(words)})'


def import_snapshot(name: str) -> TextClause:
    """Return the statement by which a transaction sees what the exported snapshot ``name`` sees."""
    if not _SNAPSHOT_NAME.fullmatch(name):
        raise InternalError(f"PostgreSQL exported a snapshot of the unexpected name {name!r}")
    return text(f"SET TRANSACTION SNAPSHOT '{name}'")


def snapshot_text() -> Program[str]:
    """Return the snapshot of the transaction as text that can be read back."""
    return readable(str((yield Execute(CURRENT_SNAPSHOT))[0][0]))


def readable(snapshot: str) -> str:
    """Return a snapshot so that its end is not below its beginning, as PostgreSQL writes but does not read it.

    That of a new slot may be ``7:6:``: the slot has seen that all below 7 ended, and no commit of 6 or above. What is
    below the beginning is visible whatever the end says, so both are 7. Source: PostgreSQL, ``XidInMVCCSnapshot``.
    """
    oldest, following, under_way = snapshot.split(":")
    return f"{oldest}:{max(int(oldest), int(following))}:{under_way}"
