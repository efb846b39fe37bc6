"""The hot statements walk their indexes on PostgreSQL, also when 10,000 rows wait that are not theirs.

A plan is made as a prepared statement sees it after a few runs: without knowing the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from sqlalchemy import Executable, make_url, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ClauseElement

from pillarbox.lease import LeaseTerms
from pillarbox.relational import holding, outbox, queue
from pillarbox.stores.postgresql import postgresql_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sqlalchemy.sql.compiler import SQLCompiler

    from pillarbox.relational import RelationalStore

ROWS = 10_000
ALL_SLOTS = list(range(64))


class Explain(Executable, ClauseElement):
    """A statement that is run and tells how."""

    inherit_cache = False

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement


@compiles(Explain, "postgresql")
def _explain(element: Explain, compiler: SQLCompiler, **options: Any) -> str:
    return "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + compiler.process(element.statement, **options)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a statement did: how it went through its tables, and how many pages it touched."""

    scans: frozenset[str]
    buffers: int


def _nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(below for child in node.get("Plans", ()) for below in _nodes(child))]


async def _plan(store: RelationalStore, statement: ClauseElement, parameters: Mapping[str, object]) -> Plan:
    async with store.begin() as tx:
        result = await tx.connection.execute(Explain(statement), dict(parameters))
        answer = result.scalar_one()
    plan = (msgspec.json.decode(answer) if isinstance(answer, str) else answer)[0]["Plan"]
    scans = {
        f"{node['Node Type']} {node.get('Index Name') or node.get('Relation Name')}"
        for node in _nodes(plan)
        if "Scan" in node["Node Type"] and ("Index Name" in node or "Relation Name" in node)
    }
    return Plan(scans=frozenset(scans), buffers=plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.fixture(params=["force_custom_plan", "force_generic_plan"])
async def store(request: pytest.FixtureRequest, postgresql_url: str) -> AsyncIterator[RelationalStore]:
    """A store whose server plans with or without knowing the parameters."""
    url = make_url(postgresql_url).set(drivername="postgresql+asyncpg")
    made = postgresql_store(url)
    await made.migrate()
    async with made.begin() as tx:
        await tx.connection.execute(text(f"ALTER DATABASE {url.database} SET plan_cache_mode = {request.param}"))
        await tx.connection.execute(text(f"ALTER DATABASE {url.database} SET jit = off"))
    await made.close()
    made = postgresql_store(url)
    yield made
    await made.close()


async def _fill(store: RelationalStore, *statements: str) -> None:
    async with store.engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
        await connection.commit()
    async with store.engine.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM ANALYZE"))


def _outbox_rows(count: int = ROWS) -> str:
    return f"""
        INSERT INTO pillarbox_outbox (id, aggregate_type, aggregate_id, event_type, payload, content_type, headers,
                                      destination, message_key, slot, created_at)
        SELECT 'm' || n, 'order', 'k' || n % 500, 'order.placed', '{{}}', 'application/json', '{{}}',
               'topic:order', 'k' || n % 500, n % 64, n
        FROM generate_series(1, {count}) AS n"""


def _queue_rows(consumer: str, count: int) -> str:
    return f"""
        INSERT INTO pillarbox_queue (consumer, message_id, type, channel, message_key, content_type, headers, body,
                                     slot, created_at)
        SELECT '{consumer}', 'm' || n, 'order.placed', 'topic:order', 'k' || n % 500, 'application/json', '{{}}',
               '{{}}',
               n % 64, n
        FROM generate_series(1, {count}) AS n"""


def _hold_rows(state: str, count: int, *, due_at: int, prefix: str) -> str:
    return f"""
        INSERT INTO pillarbox_holds (consumer, hold_key, state, due_at, lease_until, since)
        SELECT 'shop/one', '{prefix}' || n, '{state}', {due_at}, 0, n FROM generate_series(1, {count}) AS n"""


def _reading(**changes: object) -> dict[str, object]:
    return {"slots": ALL_SLOTS, "in_flight": [], "paused": [], "up_to": 500, **changes}


async def test_a_relay_reads_a_batch_by_the_primary_key_without_touching_the_backlog(store: RelationalStore) -> None:
    await _fill(store, _outbox_rows())

    plan = await _plan(store, outbox.READ, _reading(in_flight=list(range(1, 501))))

    assert "Index Scan pillarbox_outbox_pkey" in plan.scans
    assert "Seq Scan pillarbox_outbox" not in plan.scans
    assert plan.buffers < 200


async def test_a_relay_finds_an_empty_outbox_empty_at_once(store: RelationalStore) -> None:
    await _fill(store, _outbox_rows(), "DELETE FROM pillarbox_outbox")

    assert (await _plan(store, outbox.READ, _reading())).buffers < 20


async def test_a_settlement_finds_its_records_by_the_primary_key(store: RelationalStore) -> None:
    await _fill(store, _outbox_rows())
    tenancy = await store.run(store.leases.heartbeat(LeaseTerms(scope="relay"), "one"))

    settling = {"scope": "relay", "tokens": list(tenancy.tokens.values()), "positions": list(range(1, 501))}
    plan = await _plan(store, outbox.SETTLE, settling)

    assert "Seq Scan pillarbox_outbox" not in plan.scans
    assert plan.buffers < 3000


async def test_a_receiver_reads_its_messages_past_another_s_backlog(store: RelationalStore) -> None:
    await _fill(store, _queue_rows("shop/other", ROWS), _queue_rows("shop/one", 20))
    reading = {"mailbox": "shop/one", "slots": ALL_SLOTS, "leave_out": []}

    plan = await _plan(store, queue.READ, {**reading, "up_to": 100})

    assert any("pillarbox_queue_mailbox" in scan for scan in plan.scans)
    assert plan.buffers < 50


async def test_a_receiver_reads_a_batch_of_its_own_backlog(store: RelationalStore) -> None:
    await _fill(store, _queue_rows("shop/one", ROWS))
    reading = {"mailbox": "shop/one", "slots": ALL_SLOTS, "leave_out": []}

    plan = await _plan(store, queue.READ, {**reading, "up_to": 100})

    assert "Seq Scan pillarbox_queue" not in plan.scans
    assert plan.buffers < 50


async def test_a_drainer_finds_due_holds_past_those_that_wait_or_are_blocked(store: RelationalStore) -> None:
    await _fill(
        store,
        _hold_rows("waiting", ROWS, due_at=2**60, prefix="k:later"),
        _hold_rows("blocked", ROWS, due_at=0, prefix="k:blocked"),
        _hold_rows("waiting", 10, due_at=1, prefix="k:due"),
    )

    plan = await _plan(store, holding.FREE, {"by": "shop/one", "up_to": 100})

    assert any("pillarbox_holds_due" in scan for scan in plan.scans)
    assert "Seq Scan pillarbox_holds" not in plan.scans
    assert plan.buffers < 300
