"""How many rows PostgreSQL touches for the statements of every pass, under the plans that it makes for unknown values.

A claim written as a join with a subquery that has a limit touches more rows than the limit where PostgreSQL chooses a
nested loop, which runs the subquery again for each row of the other side. So nested loops are forced here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

import pytest
from sqlalchemy import Executable, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.sql.compiler import SQLCompiler

from pillarbox.relational import cursor, holding, leases, outbox, outbox_held, published, transfer
from pillarbox.stores.postgresql import postgresql_store, sequence

RETAINED, PENDING, LATE, SLOTS = 20_000, 30, 3, 64
ALL_SLOTS = "'{" + ",".join(map(str, range(SLOTS))) + "}'"
TOKENS = "'{" + ",".join(str(1024 + slot) for slot in range(SLOTS)) + "}'"
FIVE = "'{" + ",".join(str(RETAINED + number) for number in range(LATE + 1, LATE + 6)) + "}'"
RUN = {"run_first": str(RETAINED + LATE + 1), "run_last": str(RETAINED + LATE + 5)}
ANYWHERE = {"first_position": "0", "last_position": str(2**63 - 1)}
FENCE = {"scope": "'relay'", "tokens": TOKENS}
RELAY = {"in_scope": "'relay'", "by_owner": "'me'"}

_RECORDS = (
    "INSERT INTO pillarbox_{table} (id, aggregate_type, aggregate_id, event_type, payload, content_type, headers,"
    " destination, message_key, slot, created_at{more}) SELECT 'm' || n, 'order', 'k', 'order.placed', '\\x00',"
    " 'application/json', '{{}}', 'topic:order', 'k' || n % 100, n % 64, n{values}"
    " FROM generate_series(1, {count}) AS n"
)


def records(count: int, *, table: str = "outbox", more: str = "", values: str = "") -> str:
    return _RECORDS.format(table=table, count=count, more=more, values=values)


@pytest.fixture
async def connection(postgresql_url: str) -> AsyncIterator[AsyncConnection]:
    """A transaction over an outbox with many rows behind the cursor, few before it, and some of a late transaction."""
    store = postgresql_store(make_url(postgresql_url))
    await store.migrate()
    await store.close()
    engine = create_async_engine(make_url(postgresql_url).set(drivername="postgresql+psycopg"))
    async with engine.connect() as setting, engine.connect() as late:
        for statement in (
            records(RETAINED),
            records(5_000, table="outbox_scheduled", more=", due_at", values=", n"),
            "INSERT INTO pillarbox_leases (scope, slot, owner, token, expires_at)"
            " SELECT 'relay', n, 'me', n + 1024, 9000000000000000 FROM generate_series(0, 63) AS n",
        ):
            await setting.execute(text(statement))
        await setting.commit()
        await late.begin()
        await late.execute(text(records(LATE)))
        await setting.execute(text("SELECT pg_current_xact_id()"))
        await setting.commit()  # the late transaction is older than one that has ended
        here = "CAST(pg_current_snapshot() AS TEXT)"
        await setting.execute(
            text(
                "INSERT INTO pillarbox_outbox_cursor (name, since, until, position, highest, system_id, updated_at)"
                f" SELECT 'outbox', {here}, {here}, {RETAINED}, {RETAINED}, '', 0"
            )
        )
        await setting.commit()
        await late.commit()
        await setting.execute(text(records(PENDING)))
        await setting.commit()
    async with engine.connect() as vacuuming:
        await vacuuming.execution_options(isolation_level="AUTOCOMMIT")
        await vacuuming.execute(text("VACUUM ANALYZE"))
    async with engine.connect() as using:
        await using.begin()
        yield using
        await using.rollback()
    await engine.dispose()


async def snapshot(connection: AsyncConnection) -> str:
    """Return the cursor's snapshot as a literal."""
    found = (await connection.execute(text("SELECT since FROM pillarbox_outbox_cursor"))).scalar_one()
    return f"'{found}'"


async def touched(connection: AsyncConnection, statement: Executable, values: Mapping[str, str]) -> tuple[int, int]:
    """Execute under a generic plan of nested loops; return how many rows came out, and how many were looked at."""
    made = statement.compile(dialect=PGDialect_psycopg())  # type: ignore[attr-defined, no-untyped-call]
    compiled = cast("SQLCompiler", made)
    fixed = {name: repr(value) for name, value in compiled.params.items() if name not in values}
    values = {**fixed, **values}
    sql = str(compiled) % {name: f"${number}" for number, name in enumerate(values, start=1)}
    for setting in ("plan_cache_mode = force_generic_plan", "enable_hashjoin = off", "enable_mergejoin = off"):
        await connection.exec_driver_sql(f"SET LOCAL {setting}")
    await connection.exec_driver_sql(f"PREPARE guarded AS {sql}")
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE guarded({', '.join(values.values())})"
    found = (await connection.exec_driver_sql(explain)).scalar_one()
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    print(json.dumps(plan, indent=1))
    await connection.exec_driver_sql("DEALLOCATE guarded")
    return round(plan["Actual Rows"]), round(sum(_looked_at(plan)))


def _looked_at(plan: Mapping[str, Any]) -> Sequence[float]:
    removed = sum(plan.get(f"Rows Removed by {what}", 0) for what in ("Filter", "Index Recheck", "Join Filter"))
    here = (plan["Actual Rows"] + removed) * plan["Actual Loops"] if "Relation Name" in plan else 0
    return [here, *(number for part in plan.get("Plans", ()) for number in _looked_at(part))]


async def test_a_window_is_read_without_what_is_behind_it(connection: AsyncConnection) -> None:
    since = await snapshot(connection)
    until = (await connection.execute(text("SELECT CAST(pg_current_snapshot() AS TEXT)"))).scalar_one()
    values = {"since": since, "until": f"'{until}'", "floor": str(RETAINED + LATE + 1), "after": "0", "up_to": "500"}

    rows, looked_at = await touched(connection, sequence.READ, values)

    assert rows == LATE + PENDING
    assert looked_at <= 2 * (LATE + PENDING)


async def test_a_window_is_read_up_to_its_limit(connection: AsyncConnection) -> None:
    since = await snapshot(connection)
    until = (await connection.execute(text("SELECT CAST(pg_current_snapshot() AS TEXT)"))).scalar_one()
    values = {"since": since, "until": f"'{until}'", "floor": str(RETAINED + LATE + 1), "after": "0", "up_to": "5"}

    rows, looked_at = await touched(connection, sequence.READ, values)

    assert rows == 5
    assert looked_at <= LATE + PENDING


async def test_looking_for_the_next_window_looks_only_at_what_is_new(connection: AsyncConnection) -> None:
    _, looked_at = await touched(connection, sequence.FOLLOWING, {"since": await snapshot(connection)})

    assert looked_at <= LATE + PENDING


async def test_counting_what_is_pending_leaves_out_what_is_behind_the_cursor(connection: AsyncConnection) -> None:
    _, looked_at = await touched(connection, outbox.STATE, {})

    assert looked_at <= 5_000 + 4 * (LATE + PENDING + 5), "scheduled records are counted one by one"


async def test_moving_the_cursor_touches_one_row(connection: AsyncConnection) -> None:
    since = await snapshot(connection)
    values = {"at": "7", "highest": str(RETAINED), "since": since, "until": since}
    old = {"old_since": since, "old_until": since, "old_at": str(RETAINED)}

    rows, looked_at = await touched(connection, cursor.ADVANCE, {**values, **old, **FENCE})

    assert rows == 1
    assert looked_at <= SLOTS + 3


async def test_what_the_cursor_passed_is_found_up_to_the_limit(connection: AsyncConnection) -> None:
    since = await snapshot(connection)
    values = {"since": since, "until": since, "at": str(RETAINED), "highest": str(RETAINED), "up_to": "10"}

    assert await touched(connection, cursor.PASSED, values) == (10, 10)


CLAIMS: dict[str, tuple[Executable, Mapping[str, str], int, int]] = {
    "settle": (outbox.SETTLE, {"positions": FIVE, **FENCE}, 5, SLOTS + 10),
    "settle a run": (outbox.SETTLE_RUN, {**RUN, **FENCE}, 5, SLOTS + 10),
    "transfer": (
        transfer.TRANSFERABLE,
        {"slots": ALL_SLOTS, "paused": "'{}'", "up_to": "5", **FENCE, **ANYWHERE},
        5,
        2 * SLOTS + 20,
    ),
    "due": (outbox.DUE, {"after_due": "0", "after": "0", "up_to": "5", **FENCE}, 5, 2 * SLOTS + 20),
    "beside": (outbox.HAS_BESIDE, {"slots": ALL_SLOTS}, 1, 2),
    "owned": (outbox_held.OWNED_AMONG, {"positions": FIVE, **FENCE}, 5, 2 * SLOTS + 10),
    "lease free": (leases.FREE, {"in_scope": "'relay'", "up_to": "5"}, 0, SLOTS),
    "lease take": (leases.TAKE, {**RELAY, "ttl_us": "1000", "slots": "'{1,2,3}'"}, 3, SLOTS + 3),
    "purge": (published.PUBLISHED_BEFORE, {"instant": "1", "up_to": "5"}, 0, 5),
}


@pytest.mark.parametrize("name", CLAIMS)
async def test_a_claim_touches_no_more_rows_than_were_asked_for(name: str, connection: AsyncConnection) -> None:
    statement, values, rows, at_most = CLAIMS[name]

    found, looked_at = await touched(connection, statement, values)

    assert found == rows
    assert looked_at <= at_most


@pytest.mark.parametrize("statement", [outbox_held.REMOVE, outbox_held.PUT_ASIDE])
async def test_what_is_moved_is_what_was_named(statement: Executable, connection: AsyncConnection) -> None:
    held = {"state": "'parked'", "reason": "'no'"} if statement is outbox_held.PUT_ASIDE else {}

    _, looked_at = await touched(connection, statement, {**held, "positions": FIVE})

    assert looked_at <= 5


async def test_whether_keys_are_full_is_told_from_no_more_messages_of_each_than_the_limit(
    connection: AsyncConnection,
) -> None:
    for statement in (
        "INSERT INTO pillarbox_holds (consumer, hold_key, state, due_at, lease_until, since)"
        " SELECT 'one', 'k' || n, 'blocked', n, 0, n FROM generate_series(0, 9) AS n",
        "INSERT INTO pillarbox_held (consumer, hold_key, message_id, type, channel, message_key, content_type, headers,"
        " body, state, rank, attempts, due_at, history) SELECT 'one', 'k' || n % 10, 'm' || n, 'order.placed',"
        " 'topic:order', 'k', 'application/json', '{}', '\\x00', 'held', 2, 0, n, '[]'"
        " FROM generate_series(1, 20000) AS n",
        "ANALYZE pillarbox_held",
    ):
        await connection.execute(text(statement))
    asked = {"by": "'one'", "hold_keys": "'{k1,k2,k99}'", "but_one": "49"}

    rows, looked_at = await touched(connection, holding.FULL_AMONG, asked)

    assert rows == 2
    assert looked_at <= 2 * 50 + 10
