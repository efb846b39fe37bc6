"""PostgreSQL's plans for the statements of every pass, once they are prepared and planned for unknown values.

A driver prepares what it executes often, and PostgreSQL then plans once without looking at the values: it takes every
list for ten elements. Statements that leave it a choice have read a whole backlog for each batch.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import cast

import pytest
from sqlalchemy import Connection, Executable, create_engine, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.compiler import SQLCompiler

from pillarbox.relational import (
    dead_letter_groups,
    dead_letters,
    flow_journal,
    flows,
    holding,
    idempotency,
    metadata,
    outbox,
    outbox_held,
    queue,
    replay_archive,
    replay_outcomes,
    saga_archive,
    saga_locks,
    sagas,
    transfer,
)
from pillarbox.stores.postgresql import postgresql_store
from tests.servers import PostgresServer

BACKLOG = 20_000
SLOTS = "'{" + ",".join(map(str, range(64))) + "}'"
TOKENS = "'{" + ",".join(str(1024 + slot) for slot in range(64)) + "}'"
POSITIONS = "'{" + ",".join(map(str, range(1, 501))) + "}'"
ANYWHERE = {"first_position": "0", "last_position": str(2**63 - 1)}
RUN, NO_RUN = {"run_first": "1", "run_last": "500"}, {"run_first": "0", "run_last": "-1"}
BLOCKING = "what blocks a key"
FENCE = {"scope": "'relay'", "tokens": TOKENS}

STATEMENTS: dict[str, tuple[Executable, Mapping[str, str], str]] = {
    "read": (
        outbox.READ,
        {"slots": SLOTS, "in_flight": POSITIONS, "paused": "'{}'", "up_to": "500", **NO_RUN, **ANYWHERE},
        "outbox",
    ),
    "read around a run": (
        outbox.READ,
        {"slots": SLOTS, "in_flight": "'{}'", "paused": "'{}'", "up_to": "500", **RUN, **ANYWHERE},
        "outbox",
    ),
    "settle": (outbox.SETTLE, {"positions": POSITIONS, **FENCE}, "outbox"),
    "settle a run": (outbox.SETTLE_RUN_AND_COUNT, {**RUN, **FENCE}, "outbox"),
    "transfer": (
        transfer.TRANSFERABLE,
        {"slots": SLOTS, "paused": "'{}'", "up_to": "500", **FENCE, **ANYWHERE},
        "outbox",
    ),
    "remove": (outbox_held.REMOVE, {"positions": POSITIONS}, "outbox"),
    "receive": (
        queue.READ,
        {"mailbox": "'one'", "slots": SLOTS, "leave_out": POSITIONS, "up_to": "200", **ANYWHERE},
        "queue",
    ),
    "purge": (idempotency.OLDEST, {"first_instant": "0", "instant": "1000", "up_to": "1000"}, "inbox"),
    "forget": (idempotency.FORGET, {"by": "'one'", "ids": "'{m1,m2,m3}'"}, "inbox"),
    "sagas due": (
        sagas.DUE,
        {"of_service": "'shop'", "definitions": "'{shop/fulfil@1}'", "up_to": "500"},
        "saga_instances",
    ),
    "sagas in need": (saga_archive.IN_NEED, {}, "saga_instances"),
    "overdue sagas": (saga_archive.OVERDUE, {}, "saga_instances"),
    "let locks go": (saga_locks.RELEASE, {"owners": "'{o1,o2,o3}'"}, "saga_locks"),
    "flows that are due": (
        flows.DUE,
        {"in_state": "'running'", "flows": "'{shop/f,shop/g}'", "up_to": "50"},
        "flow_instances",
    ),
    "flows that are over": (
        flows.OLDEST,
        {"age_us": "1000", "in_state": "'ended'", "up_to": "1000"},
        "flow_instances",
    ),
    "old messages of flows": (flow_journal.OLDEST, {"age_us": "1000", "up_to": "1000"}, "flow_messages"),
    **{
        f"{state} letters of a {by}": (
            dead_letters.find_statement((by, state)),
            {f"of_{by}": "'one'", "after": "0", "up_to": "50"},
            "dead_letters",
        )
        for by, state in (("consumer", "dead"), ("group", "resolved"), ("type", "discarded"))
    },
    "full keys": (holding.FULL_AMONG, {"by": "'one'", "hold_keys": "'{k1,k2,k3}'", "but_one": "99"}, "held"),
    "letters that are old": (dead_letter_groups.AGED, {"age_us": "1000"}, "dead_letters"),
    BLOCKING: (dead_letters.BLOCKING, {"by": "'one'", "held_key": "'k1'"}, "dead_letters"),
    "accept": (queue.ACCEPT, {"positions": POSITIONS, **FENCE}, "queue"),
}
FILL_LETTERS = (
    "INSERT INTO pillarbox_dead_letters (consumer, hold_key, message_id, type, channel, message_key, content_type,"
    " headers, body, state, attempts, reason, history, stack, fingerprint, first_failed_at, last_failed_at, replays)"
    " SELECT 'c' || n % 50, 'k' || n, 'm' || n, 't' || n % 40, 'topic:order', 'k' || n, 'application/json', '{}',"
    " '\\x00', (ARRAY['dead', 'replaying', 'resolved', 'discarded'])[1 + n / 50 % 4], 1, 'exhausted', '[]', '',"
    f" 'f' || n % 400, n, n, 0 FROM generate_series(1, {BACKLOG}) AS n"
)
FILL_RUNS = (
    "INSERT INTO pillarbox_replay_runs (run, state, wanted, requested_by, canary, forced, reached, created_at,"
    " ended_at, ended_because) SELECT 'r' || n, 'finished', '{}', 'ann', 0, 0, 1000000, n, n, ''"
    " FROM generate_series(1, 200) AS n",
    "INSERT INTO pillarbox_replay_items (run, letter, replays, state) SELECT 'r' || n % 200, n, 0, 'pending'"
    f" FROM generate_series(1, {5 * BACKLOG}) AS n",
)
FILL = (
    "INSERT INTO pillarbox_outbox (id, aggregate_type, aggregate_id, event_type, payload, content_type, headers,"
    " destination, message_key, slot, created_at) SELECT 'm' || n, 'order', 'k', 'order.placed', '\\x00',"
    f" 'application/json', '{{}}', 'topic:order', 'k' || n % 100, n % 64, n FROM generate_series(1, {BACKLOG}) AS n",
    "INSERT INTO pillarbox_queue (consumer, message_id, type, channel, message_key, content_type, headers, body, slot,"
    " created_at) SELECT CASE n % 2 WHEN 0 THEN 'one' ELSE 'two' END, 'm' || n, 'order.placed', 'topic:order',"
    f" 'k' || n % 100, 'application/json', '{{}}', '\\x00', n % 64, n FROM generate_series(1, {BACKLOG}) AS n",
    "INSERT INTO pillarbox_inbox (consumer, message_id, processed_at) SELECT 'one', 'm' || n, n"
    f" FROM generate_series(1, {BACKLOG}) AS n",
    "INSERT INTO pillarbox_saga_instances (saga, saga_id, service, definition, version, state, steps, data,"
    " content_type, journal, correlation_id, serial, due_at, started_at, changed_at) SELECT 'shop/fulfil', 'o' || n,"
    " CASE n % 3 WHEN 0 THEN 'shop' ELSE 'stock' END, 'shop/fulfil@1', 1,"
    " CASE WHEN n % 1000 = 0 THEN 'needs_attention' WHEN n % 2 = 0 THEN 'running' ELSE 'completed' END, '', '{}',"
    " 'application/json', '{}', 'o' || n, 1, CASE n % 2 WHEN 0 THEN 9000000000000000 + n END, n, n"
    f" FROM generate_series(1, {BACKLOG}) AS n",
    "INSERT INTO pillarbox_saga_locks (resource, owner, expires_at) SELECT 'r' || n, 'o' || n / 2, n"
    f" FROM generate_series(1, {BACKLOG}) AS n",
    "INSERT INTO pillarbox_flow_instances (flow, correlation_id, state, due_at, told, missing, version, touched_at)"
    " SELECT 'shop/f', 'p' || n, CASE n % 10 WHEN 0 THEN 'running' ELSE 'ended' END, n, '[]', '[]', 0, n"
    f" FROM generate_series(1, {BACKLOG}) AS n",
    "INSERT INTO pillarbox_flow_messages (correlation_id, message_id, type, channel, service, hop, seen_at)"
    " SELECT 'p' || n, 'm' || n, 'order.placed', 'topic:order', 'shop', 0, n"
    f" FROM generate_series(1, {BACKLOG}) AS n",
    FILL_LETTERS,
    "INSERT INTO pillarbox_holds (consumer, hold_key, state, due_at, lease_until, since)"
    f" SELECT 'one', 'k' || n, 'blocked', n, 0, n FROM generate_series(0, {BACKLOG // 100}) AS n",
    "INSERT INTO pillarbox_held (consumer, hold_key, message_id, type, channel, message_key, content_type, headers,"
    " body, state, rank, attempts, due_at, history) SELECT 'one', 'k' || n / 100, 'm' || n, 'order.placed',"
    " 'topic:order', 'k' || n / 100, 'application/json', '{}', '\\x00', 'held', 2, 0, n, '[]'"
    f" FROM generate_series(1, {BACKLOG}) AS n",
    "INSERT INTO pillarbox_leases (scope, slot, owner, token, expires_at)"
    " SELECT 'relay', n, 'me', n + 1024, 9000000000000000 FROM generate_series(0, 63) AS n",
)

ANALYZE = text(f"ANALYZE {', '.join(table.name for table in metadata.sorted_tables)}")
"""Of these tables alone: those that all databases share stay locked to the end of the transaction."""


def _plan(connection: Connection, statement: Executable, values: Mapping[str, str]) -> str:
    """Return the plan that PostgreSQL makes without looking at ``values``."""
    made = statement.compile(dialect=PGDialect_psycopg())  # type: ignore[attr-defined, no-untyped-call]
    compiled = cast("SQLCompiler", made)
    fixed = {name: repr(value) for name, value in compiled.params.items() if name not in values}
    values = {**fixed, **values}
    numbers = {name: f"${number}" for number, name in enumerate(values, start=1)}
    sql = str(compiled) % numbers
    connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
    connection.exec_driver_sql(f"PREPARE guarded AS {sql}")
    given = f"({', '.join(values.values())})" if values else ""
    rows = connection.exec_driver_sql(f"EXPLAIN EXECUTE guarded{given}").all()
    connection.exec_driver_sql("DEALLOCATE guarded")
    return "\n".join(row[0] for row in rows)


async def test_old_letters_are_looked_for_where_they_are_old(postgresql_url: str) -> None:
    """And not among all that are dead."""
    await _migrate(postgresql_url)
    engine = create_async_engine(make_url(postgresql_url).set(drivername="postgresql+psycopg"))
    async with engine.begin() as connection:
        await connection.execute(text(FILL_LETTERS))
        await connection.execute(ANALYZE)

        plan = await connection.run_sync(_plan, dead_letter_groups.AGED, {"age_us": "1000"})

    await engine.dispose()
    assert re.search(r"Index Cond: .*last_failed_at <", plan), plan


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (replay_archive.HAVING, {"of_letter": "77"}),
        (replay_archive.OVER, {"age_us": "1000", "up_to": "100"}),
        (replay_archive.FIRST, {"of_run": "'r7'", "up_to": "1000"}),
        (replay_archive.REMOVE_ITEMS, {"of_run": "'r7'", "last_letter": "1000"}),
        (replay_outcomes.SETTLE_SOME, {"of_run": "'r7'", "letters": POSITIONS}),
    ],
    ids=["of a letter", "over", "first letters", "remove", "settle"],
)
async def test_letters_of_replay_runs_are_found_by_their_run(
    statement: Executable, values: Mapping[str, str], postgresql_url: str
) -> None:
    await _migrate(postgresql_url)
    engine = create_async_engine(make_url(postgresql_url).set(drivername="postgresql+psycopg"))
    async with engine.begin() as connection:
        for fill in (FILL_LETTERS, *FILL_RUNS):
            await connection.execute(text(fill))
        await connection.execute(ANALYZE)

        plan = await connection.run_sync(_plan, statement, values)

    await engine.dispose()
    assert not re.search(r"Seq Scan on pillarbox_(replay_items|dead_letters)\b", plan), plan


@pytest.fixture(scope="module")
def filled(postgresql_server: PostgresServer) -> Iterator[Callable[[bool], Connection]]:
    """Gives a connection to full tables, analyzed or not. They are not committed, so nobody else analyzes them."""
    made: dict[bool, Connection] = {}
    with ExitStack() as stack:

        def fill(*, is_analyzed: bool) -> Connection:
            url = postgresql_server.create_database()
            stack.callback(postgresql_server.drop_database, url)
            asyncio.run(_migrate(url))
            engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
            connection = stack.enter_context(engine.connect())
            for rows in FILL:
                connection.execute(text(rows))
            if is_analyzed:
                connection.execute(ANALYZE)
            return connection

        def at(is_analyzed: bool) -> Connection:
            if is_analyzed not in made:
                made[is_analyzed] = fill(is_analyzed=is_analyzed)
            return made[is_analyzed]

        yield at


@pytest.mark.parametrize("is_analyzed", [False, True], ids=["unknown-to-the-planner", "analyzed"])
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_prepared_statement_walks_its_index(
    name: str, is_analyzed: bool, filled: Callable[[bool], Connection]
) -> None:
    statement, values, table = STATEMENTS[name]
    with filled(is_analyzed).begin_nested() as savepoint:
        plan = _plan(filled(is_analyzed), statement, values)
        savepoint.rollback()

    assert re.search(rf"Seq Scan on pillarbox_{table}(_default)?\b", plan) is None, plan
    assert not is_analyzed or name == BLOCKING or "Sort" not in plan, (
        plan
    )  # a table that nobody has analyzed yet may be sorted for a while


async def _migrate(url: str) -> None:
    store = postgresql_store(make_url(url))
    await store.migrate()
    await store.close()
