"""From what was read of a PostgreSQL to what it means for messages; pure.

The rows of RELIABILITY behind the codes: ``identity-cache`` A6, ``fsync`` and ``synchronous-commit`` A8,
``old-transaction`` B3 and E1, ``standby`` B8, ``pooler`` C5, ``slot-…`` D5, ``dead-rows`` E1 and E2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from pillarbox.control.diagnosis import DiagnosisLimits, Finding, Severity, problem, well
from pillarbox.outbox.record import LOCK_BUCKETS
from pillarbox.relational.shape import schema_findings
from pillarbox.stores.postgresql.facts import (
    LEAST_VERSION,
    OldTransaction,
    PostgresFacts,
    SlotFacts,
    TableFacts,
)
from pillarbox.stores.postgresql.partitions import LARGEST_DEFAULT

LONGEST_QUERY = 200
HELD_BACK = 1_000_000
"""Transactions after which even a view of unknown age is worth a word."""
UNREAD = "WAL that it needs is gone: what it had not read yet it will never read"
HEAL = (
    "a log tailing relay heals it from the table when it starts, and tells what it cannot heal without a table; "
    "Debezium needs a new slot and a snapshot"
)
OFF = "off"
OK, NOTICE, WARNING, ERROR = Severity.OK, Severity.NOTICE, Severity.WARNING, Severity.ERROR


def judge_postgresql(facts: PostgresFacts, limits: DiagnosisLimits) -> list[Finding]:
    """Return every finding, good and bad."""
    return [
        *_server(facts),
        *_durability(facts),
        *schema_findings(facts.schema, "postgresql"),
        *_identities(facts),
        *_locks(facts),
        *_pooler(facts),
        *_old_transactions(facts.old_transactions, limits),
        *_rights(facts),
        *_slots(facts, limits),
        *_tables(facts, limits),
        *_relays(facts),
    ]


def _server(facts: PostgresFacts) -> Iterator[Finding]:
    number = f"{facts.version // 10000}.{facts.version % 10000}"
    if facts.version < LEAST_VERSION:
        means, do = "the outbox needs 64-bit transaction ids, which came with 13", "upgrade the server"
        yield problem("version", ERROR, "server", f"PostgreSQL {number}", means=means, do=do)
    else:
        yield well("version", "server", f"PostgreSQL {number}")
    if facts.in_recovery:
        means = "nothing can be written, and a relay would see commits in another order than they happened"
        do = "name the primary in the store's URL (target_session_attrs=read-write)"
        yield problem("standby", ERROR, "server", "this is a standby", means=f"{means}", do=do)
    else:
        yield well("standby", "server", "a primary")
    if facts.settings.get("autovacuum") == OFF:
        means = "deleted records stay as dead rows, which every pass of a relay reads again"
        yield problem(
            "autovacuum", WARNING, "autovacuum", "autovacuum is off", means=means, do="set autovacuum = on and reload"
        )
    else:
        yield well("autovacuum", "autovacuum", "on")
    if facts.settings.get("hot_standby_feedback") == "on" and facts.in_recovery:
        means = "long queries here keep rows from being removed on the primary"
        yield problem(
            "standby-feedback", NOTICE, "hot_standby_feedback", "on", means=means, do="keep queries here short"
        )


def _durability(facts: PostgresFacts) -> Iterator[Finding]:
    for name, severity, means in (
        ("fsync", ERROR, "a crash of the machine can lose what was committed, or the whole cluster"),
        ("full_page_writes", ERROR, "a crash of the machine can leave torn pages, which lose rows in silence"),
    ):
        if facts.settings.get(name) == OFF:
            do = f"set {name} = on and reload; what ran without it may be damaged already"
            yield problem(name.replace("_", "-"), severity, name, "off", means=f"{means}", do=do)
        else:
            yield well(name.replace("_", "-"), name, "on")
    yield _synchronous_commit(facts)


def _synchronous_commit(facts: PostgresFacts) -> Finding:
    level = facts.settings.get("synchronous_commit", "")
    if level == OFF:
        means = (
            "a commit that was reported can vanish in a crash, with its message, after others were told of it "
            "(RELIABILITY A8)"
        )
        do = "set synchronous_commit = on for the database and for the role: ALTER DATABASE … SET, ALTER ROLE … SET"
        return problem("synchronous-commit", WARNING, "synchronous_commit", "off", means=means, do=do)
    if facts.settings.get("synchronous_standby_names") and level == "local":
        means = "a failover can lose what was published: commits do not wait for the synchronous standby"
        return problem("synchronous-commit", WARNING, "synchronous_commit", level, means=means, do="set it to on")
    return well("synchronous-commit", "synchronous_commit", f"{level} (a session can still set it off for itself)")


def _identities(facts: PostgresFacts) -> Iterator[Finding]:
    cached = {table: cache for table, cache in facts.identities.items() if cache > 1}
    for table, cache in sorted(cached.items()):
        what = f"the identity of {table} is taken {cache} at a time"
        means = "positions do not follow the order of commits: messages of a key are delivered out of order"
        do = f"ALTER TABLE {table} ALTER COLUMN position SET CACHE 1, with the writers stopped"
        yield problem("identity-cache", ERROR, table, what, means=f"{means}", do=do)
    if facts.identities and not cached:
        yield well("identity-cache", "positions", "each identity is taken one by one")


def _locks(facts: PostgresFacts) -> Iterator[Finding]:
    per, connections, prepared = (
        int(facts.settings.get(name, 0))
        for name in ("max_locks_per_transaction", "max_connections", "max_prepared_transactions")
    )
    room = per * (connections + prepared)
    what = f"the lock table has room for {room} locks"
    if room >= 4 * LOCK_BUCKETS:
        yield well("lock-table", "max_locks_per_transaction", what)
        return
    means = (
        f"a transaction that publishes many keys takes up to {LOCK_BUCKETS}: it fails with "
        '"out of shared memory", and so can others beside it'
    )
    do = f"raise max_locks_per_transaction to {-(-4 * LOCK_BUCKETS // max(connections + prepared, 1))} and restart"
    severity = ERROR if room < LOCK_BUCKETS else WARNING
    yield problem("lock-table", severity, "max_locks_per_transaction", what, means=means, do=do)


def _pooler(facts: PostgresFacts) -> Iterator[Finding]:
    if not facts.pooled:
        yield well("pooler", "connection", "a session keeps its server process, as far as can be seen")
        return
    means = (
        "what belongs to a session is lost between transactions: prepared statements, LISTEN, session locks and "
        "settings. Publishing and leases need none of them, but drivers prepare statements unless told not to "
        "(RELIABILITY C5)"
    )
    do = (
        "give the box an engine that prepares nothing (connect_args={'prepare_threshold': None} with psycopg), or let "
        "the pooler carry prepared statements over (PgBouncer 1.21: max_prepared_statements); log tailing needs a "
        "direct connection"
    )
    yield problem("pooler", WARNING, "connection", "there is a pooler in transaction mode", means=means, do=do)


def _old_transactions(found: Sequence[OldTransaction], limits: DiagnosisLimits) -> Iterator[Finding]:
    too_old = [one for one in found if _is_too_old(one, limits)]
    for one in too_old:
        yield problem(
            "old-transaction", WARNING, _who(one), _since_when(one), means=_what_it_holds(one), do=_how_to_end(one)
        )
    if not too_old:
        yield well("old-transaction", "transactions", f"none is open for over {_time(limits.oldest_transaction)}")


def _rights(facts: PostgresFacts) -> Iterator[Finding]:
    if not facts.sees_sessions:
        what = "what other users' sessions do may not be seen"
        means = "of their old transactions only those are found that hold back very many rows, without their queries"
        do = "GRANT pg_read_all_stats to this user, or ask as another one"
        yield problem("rights", NOTICE, "user", what, means=means, do=do)
    else:
        yield well("rights", "user", "may see every session")


def _is_too_old(one: OldTransaction, limits: DiagnosisLimits) -> bool:
    if one.open_for is None:
        return (one.holds_back or 0) > HELD_BACK
    return one.open_for > limits.oldest_transaction


def _who(one: OldTransaction) -> str:
    return f"{'pid' if one.kind == 'session' else one.kind} {one.name}"


def _since_when(one: OldTransaction) -> str:
    place = f" in database {one.database}" if one.database else ""
    by = "".join(f", {name} {value}" for name, value in (("user", one.user), ("application", one.application)) if value)
    query = " ".join(one.query.split())
    shown = query if len(query) <= LONGEST_QUERY else query[:LONGEST_QUERY] + "…"
    said = f"; its last statement: {shown}" if shown else ""
    age = "" if one.open_for is None else f" for {_time(one.open_for)}"
    return f"{one.state or 'open'}{age}{place}{by}{said}"


def _what_it_holds(one: OldTransaction) -> str:
    if one.holds_back is None:
        return "it keeps its locks: producers of the same keys wait for it, and so does every change of a table"
    return (
        f"dead rows of the last {one.holds_back} transactions stay in every table of the cluster, and each pass of a "
        "relay reads over ours; a sequence relay reads them again, too"
    )


def _how_to_end(one: OldTransaction) -> str:
    match one.kind:
        case "prepared":
            name = one.name.replace("'", "''")
            return f"COMMIT PREPARED or ROLLBACK PREPARED '{name}' in its database"
        case "slot":
            return "look at the standby or reader behind it; drop the slot if nobody is"
        case _:
            return (
                f"end its transaction, if need be by SELECT pg_terminate_backend({one.name}); "
                "set idle_in_transaction_session_timeout"
            )


def _slots(facts: PostgresFacts, limits: DiagnosisLimits) -> Iterator[Finding]:
    for slot in facts.slots:
        yield _slot(slot, limits)
    if facts.missing_slot is not None:
        yield problem("slot-lost", ERROR, f"slot {facts.missing_slot}", "it is gone", means=UNREAD, do=HEAL)
    level = facts.settings.get("wal_level", "")
    if level != "logical":
        means = "the log tailing relay and Debezium cannot read the outbox; the other relays can"
        do = "nothing, unless you want them: set wal_level = logical and restart"
        yield problem("wal-level", NOTICE, "wal_level", level, means=means, do=do)
    else:
        yield well("wal-level", "wal_level", level)
    yield _keep_size(facts)
    yield from _idle_limit(facts)


def _keep_size(facts: PostgresFacts) -> Finding:
    subject = "max_slot_wal_keep_size"
    size = facts.settings.get(subject, "")
    if size != "-1" or not facts.slots:
        return well("slot-keep-size", subject, size if size != "-1" else "unlimited, and there is no slot")
    means = "a slot that nobody reads keeps WAL until the disk is full and the server stops"
    do = "set it to what the disk can spare, such as 50GB, and watch wal_status"
    severity = WARNING if any(slot.ours for slot in facts.slots) else NOTICE
    return problem("slot-keep-size", severity, subject, "unlimited", means=means, do=do)


def _idle_limit(facts: PostgresFacts) -> Iterator[Finding]:
    subject = "idle_replication_slot_timeout"
    limit = facts.settings.get(subject)
    if limit is None:  # before PostgreSQL 18
        return
    if limit == "0" or not any(slot.ours for slot in facts.slots):
        yield well("slot-idle", subject, limit)
        return
    means = (
        "when no relay runs so long the slot is lost at a checkpoint: what the table has is published all the same, "
        "what an outbox without a table has is not"
    )
    do = "set it to 0; max_slot_wal_keep_size bounds the WAL that a slot keeps"
    yield problem("slot-idle", WARNING, subject, limit, means=means, do=do)


def _slot(slot: SlotFacts, limits: DiagnosisLimits) -> Finding:
    subject, whose = f"slot {slot.name}", "" if slot.ours else " (not one of ours)"
    kept = _bytes(slot.retained_bytes)
    if slot.status == "lost":
        severity = ERROR if slot.ours else NOTICE
        return problem("slot-lost", severity, subject, f"lost its WAL{whose}", means=UNREAD, do=HEAL)
    if slot.status == "unreserved":
        means = "at the next checkpoint WAL that it needs is removed"
        do = "start its reader now, or raise max_slot_wal_keep_size"
        return problem(
            "slot-lag", ERROR if slot.ours else WARNING, subject, f"about to be lost{whose}", means=means, do=do
        )
    if not slot.active:
        means = f"nobody reads it, and it holds back {kept} of WAL, and more with every write"
        do = f"start its reader, or SELECT pg_drop_replication_slot('{slot.name}') if there is none any more"
        return problem("slot-inactive", WARNING, subject, f"inactive{whose}", means=means, do=do)
    if (slot.retained_bytes or 0) > limits.retained_bytes:
        means = "its reader does not keep up; the disk can fill"
        return problem(
            "slot-lag", WARNING, subject, f"holds back {kept} of WAL{whose}", means=means, do="see what slows it"
        )
    return well("slot-lag", subject, f"holds back {kept} of WAL{whose}")


def _tables(facts: PostgresFacts, limits: DiagnosisLimits) -> Iterator[Finding]:
    full = [table for table in facts.tables if table.dead > limits.dead_rows and table.dead > table.live]
    for table in full:
        yield _dead_rows(table)
    for table in facts.tables:
        if not table.autovacuum:
            means = "its dead rows stay, and every pass reads them"
            do = f"ALTER TABLE {table.name} RESET (autovacuum_enabled)"
            yield problem("table-autovacuum", WARNING, table.name, "autovacuum is off for it", means=means, do=do)
    if facts.default_bytes > LARGEST_DEFAULT:
        yield _default_partition(facts.default_bytes)
    if facts.tables and not full:
        yield well("dead-rows", "our tables", f"{sum(table.dead for table in facts.tables)} dead rows in all")


def _default_partition(size: int) -> Finding:
    subject = "pillarbox_outbox_default"
    what = f"it has {_bytes(size)}: no partition is made beside it while it is over {_bytes(LARGEST_DEFAULT)}"
    means = "what is published is removed row by row, and leaves dead rows"
    do = f"remove what need not be kept (pillarbox outbox purge), then VACUUM FULL {subject} in a quiet hour"
    return problem("partitions", WARNING, subject, what, means=means, do=do)


def _dead_rows(table: TableFacts) -> Finding:
    ago = "never" if table.vacuumed_ago is None else f"{_time(table.vacuumed_ago)} ago"
    what = f"{table.dead} dead rows beside {table.live} living ones; vacuumed {ago}"
    means = "each pass reads over the dead rows: relays and consumers become slower"
    do = f"VACUUM {table.name}; if that does not help, end the old transactions named here"
    return problem("dead-rows", WARNING, table.name, what, means=means, do=do)


def _relays(facts: PostgresFacts) -> Iterator[Finding]:
    if facts.relays == 0:
        means = "records stay in the outbox until one runs; with Debezium in its stead that is right"
        yield problem(
            "relays", NOTICE, "relays", "no relay runs", means=means, do="run: pillarbox run MODULE:BOX --relay"
        )
    elif facts.relays:
        yield well("relays", "relays", f"{facts.relays} at work")


def _time(duration: timedelta) -> str:
    return f"{duration.total_seconds():.0f} s"


def _bytes(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / (1 << 20):.1f} MiB"
