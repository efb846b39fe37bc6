"""Where a polling relay begins to read on PostgreSQL: above what was settled, never above what may still appear."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from pillarbox import Pillarbox
from pillarbox.channel import Confirmed, MessageSender, SendResult
from pillarbox.outbox import record_of
from pillarbox.relational.outbox import READ
from pillarbox.relay.low_watermark import LowWatermark
from pillarbox.stores.postgresql import postgresql_store
from pillarbox.testing import VirtualClock
from pillarbox.testing.contracts.harness import make_message
from tests.brokers import StandInBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pillarbox.message import Message
    from pillarbox.relational import RelationalStore

SECOND = timedelta(seconds=1)
SETTLED, MANY = 100_000, 50_000
TRIES = 3
RECORDS = text(
    "INSERT INTO pillarbox_outbox (id, aggregate_type, aggregate_id, event_type, payload, content_type, headers,"
    " destination, message_key, slot, created_at) SELECT 'm' || n, 'order', 'k', 'order.placed', '\\x00',"
    " 'application/json', '{}', 'topic:order', 'k' || n % 100, n % 64, n FROM generate_series(1, :count) AS n"
)


class TimingBroker(StandInBroker, MessageSender):
    """Confirms everything at once, and notes when each batch came."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self.at: list[float] = []
        self._missing = expected
        self.when_all_came: Callable[[], None] = lambda: None

    def sender(self) -> MessageSender:
        return self

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        self.at.append(perf_counter())
        self._missing -= len(messages)
        if not self._missing:
            self.when_all_came()
        return [Confirmed()] * len(messages)


@pytest.fixture
async def store(postgresql_url: str) -> AsyncIterator[RelationalStore]:
    made = postgresql_store(make_url(postgresql_url))
    await made.migrate()
    yield made
    await made.close()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def low(store: RelationalStore, clock: VirtualClock) -> LowWatermark:
    return LowWatermark(store.traits.horizon, source=store, clock=clock)


async def rise(low: LowWatermark, clock: VirtualClock, *, times: int = 2) -> int:
    """Let it look so many times, a second apart."""
    for _ in range(times):
        low.note(1)
        clock.advance(SECOND)
        await low.rise()
    return low.first


async def append(store: RelationalStore, identity: str, key: str = "k") -> None:
    await store.run(store.outbox.append([record_of(make_message(identity, key))]))


async def settle_all(store: RelationalStore) -> None:
    async with store.begin() as tx:
        await tx.connection.execute(text("DELETE FROM pillarbox_outbox"))


async def buffers_of_a_read(store: RelationalStore, *, first: int) -> int:
    """Return how many pages an empty read looks at, under the plan of a prepared statement."""
    slots = "'{" + ",".join(map(str, range(64))) + "}'"
    values = {
        "slots": slots,
        "run_first": "0",
        "run_last": "-1",
        "in_flight": "'{}'",
        "paused": "'{}'",
        "up_to": "500",
        "first_position": str(first),
        "last_position": str(2**63 - 1),
    }
    compiled = READ.compile(dialect=PGDialect_psycopg())  # type: ignore[no-untyped-call]
    sql = str(compiled) % {name: f"${number}" for number, name in enumerate(values, start=1)}
    async with store.begin() as tx:
        for statement in ("SET LOCAL plan_cache_mode = force_generic_plan", f"PREPARE reading AS {sql}"):
            await tx.connection.exec_driver_sql(statement)
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE reading({', '.join(values.values())})"
        found: Any = (await tx.connection.exec_driver_sql(explain)).scalar_one()
        await tx.connection.exec_driver_sql("DEALLOCATE reading")
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    assert plan["Actual Rows"] == 0
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def test_beside_an_old_snapshot_reads_do_not_walk_over_what_was_settled(
    store: RelationalStore, low: LowWatermark, clock: VirtualClock
) -> None:
    async with store.engine.connect() as old:
        await old.execution_options(isolation_level="REPEATABLE READ")
        await old.execute(text("SELECT count(*) FROM pillarbox_outbox"))
        async with store.begin() as tx:
            await tx.connection.execute(RECORDS, {"count": SETTLED})
        await settle_all(store)
        from_the_start = await buffers_of_a_read(store, first=0)

        await rise(low, clock)
        from_there = await buffers_of_a_read(store, first=low.first)

    print(f"{from_the_start} pages from the start, {from_there} from {low.first}")
    assert low.first == SETTLED + 1
    assert from_the_start > 500, "without it a read walks over what was settled"
    assert from_there <= 50


async def drain_beside_an_old_snapshot(store: RelationalStore) -> tuple[float, float]:
    """Relay many records; return the seconds of the median batch of the first tenth, and of the last."""
    async with store.engine.connect() as old:
        await old.execution_options(isolation_level="REPEATABLE READ")
        await old.execute(text("SELECT count(*) FROM pillarbox_outbox"))
        async with store.begin() as tx:
            await tx.connection.execute(RECORDS, {"count": MANY})
            await tx.connection.execute(text("ANALYZE pillarbox_outbox"))
        broker = TimingBroker(MANY)
        box = Pillarbox("shop", store=store.engine, broker=broker)
        broker.when_all_came = box.stop
        async with box:
            await box.run(consumers=False)
    took = [later - earlier for earlier, later in pairwise(broker.at)]
    tenth = len(took) // 10
    return median(took[:tenth]), median(took[-tenth:])


async def test_beside_an_old_snapshot_the_last_of_many_records_leave_about_as_quickly_as_the_first(
    store: RelationalStore,
) -> None:
    """Within three times as long; what disturbs a busy machine for a moment does not do so three times."""
    ratios: list[float] = []
    while not ratios or (ratios[-1] > 3 and len(ratios) < TRIES):
        first, last = await drain_beside_an_old_snapshot(store)
        print(f"a batch took {first * 1000:.2f} ms at first, {last * 1000:.2f} ms at last")
        ratios.append(last / first)

    assert min(ratios) <= 3, ratios


async def test_it_never_passes_a_record_that_is_not_committed(
    store: RelationalStore, low: LowWatermark, clock: VirtualClock
) -> None:
    async with store.begin() as tx:
        await tx.run(store.outbox.append([record_of(make_message("late", "slow"))]))
        for number in range(3):
            await append(store, f"m{number}")
            await settle_all_but_late(store)
            assert await rise(low, clock) <= 1

    assert await rise(low, clock) == 1, "it is pending now"
    await settle_all(store)
    assert await rise(low, clock) == 5


async def settle_all_but_late(store: RelationalStore) -> None:
    async with store.begin() as tx:
        await tx.connection.execute(text("DELETE FROM pillarbox_outbox WHERE id <> 'late'"))


async def test_a_writer_that_began_after_the_look_does_not_stop_it_from_rising_to_there(
    store: RelationalStore, low: LowWatermark, clock: VirtualClock
) -> None:
    await append(store, "m1")
    await settle_all(store)
    await rise(low, clock, times=1)

    async with store.begin() as tx:
        await tx.run(store.outbox.append([record_of(make_message("m2", "slow"))]))
        assert await rise(low, clock, times=1) == 2
        assert await rise(low, clock, times=3) == 2
    assert await rise(low, clock, times=3) == 2, "it is pending"


async def test_it_stays_below_what_is_pending(store: RelationalStore, low: LowWatermark, clock: VirtualClock) -> None:
    for number in range(4):
        await append(store, f"m{number}")
    async with store.begin() as tx:
        await tx.connection.execute(text("DELETE FROM pillarbox_outbox WHERE id IN ('m0', 'm1', 'm3')"))

    assert await rise(low, clock) == 3


async def test_a_prepared_transaction_keeps_it_from_rising(
    store: RelationalStore, low: LowWatermark, clock: VirtualClock
) -> None:
    async with store.engine.connect() as connection:
        if not int((await connection.execute(text("SHOW max_prepared_transactions"))).scalar_one()):
            pytest.skip("this server prepares no transactions")
    async with store.begin() as tx:
        await tx.connection.execute(RECORDS, {"count": 1})
        await rise(low, clock, times=1)
        await tx.connection.execute(text("PREPARE TRANSACTION 'one'"))
    await append(store, "m1")
    await settle_all_but_late(store)

    assert await rise(low, clock, times=3) == 0

    async with store.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("COMMIT PREPARED 'one'"))
    assert await rise(low, clock, times=3) == 1


async def test_it_falls_when_positions_are_handed_out_again(
    store: RelationalStore, low: LowWatermark, clock: VirtualClock
) -> None:
    for number in range(3):
        await append(store, f"m{number}")
    await settle_all(store)
    assert await rise(low, clock) == 4
    async with store.begin() as tx:
        await tx.connection.execute(text("ALTER TABLE pillarbox_outbox ALTER COLUMN position RESTART"))
    await append(store, "again")

    assert await rise(low, clock, times=1) == 0

    await append(store, "again-1")
    assert await rise(low, clock) == 1


async def test_within_a_minute_it_looks_at_all_positions(
    store: RelationalStore, low: LowWatermark, clock: VirtualClock
) -> None:
    for number in range(3):
        await append(store, f"m{number}")
    await settle_all(store)
    assert await rise(low, clock) == 4
    async with store.begin() as tx:
        await tx.connection.execute(text("ALTER TABLE pillarbox_outbox ALTER COLUMN position RESTART WITH 2"))
    await append(store, "hidden")
    async with store.begin() as tx:
        await tx.connection.execute(text("ALTER TABLE pillarbox_outbox ALTER COLUMN position RESTART WITH 9"))
    await append(store, "m9")

    clock.advance(timedelta(minutes=1))
    assert await rise(low, clock, times=3) == 2


async def test_while_nothing_is_found_nobody_looks(
    store: RelationalStore, low: LowWatermark, clock: VirtualClock
) -> None:
    await append(store, "m1")
    await settle_all(store)
    assert await rise(low, clock, times=3) == 2
    await append(store, "m2")
    await settle_all(store)

    for _ in range(5):
        clock.advance(SECOND)
        await low.rise()

    assert low.first == 2
    assert await rise(low, clock) == 3
