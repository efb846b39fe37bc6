"""A replay of many dead letters among ten times as many: made due as an operator does it, then handled by our consumer.

The rate is that of the handling: the same handler, inbox and rows as in ``pillarbox_consumer``, in one lane.
"""

from __future__ import annotations

import asyncio
import json
import time
from statistics import median

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.competitors.orders import CREATE_ACCOUNTS, FILL_ACCOUNTS, HEADERS, OrderPlaced
from benchmarks.competitors.pillarbox_consumer import FeedBroker, count_orders
from benchmarks.measure import Stopwatch, Task, task
from benchmarks.order import BODY
from pillarbox import DeadLetterFilter, Pillarbox
from pillarbox.app import SystemClock
from pillarbox.app.controlling import replay_driver_of
from pillarbox.deadletter.driver import look_again_at
from pillarbox.deadletter.runs import ItemState
from pillarbox.observe import Event, MessageHandled, Observer
from pillarbox.stores.postgresql.store import postgresql_store

CONSUMER = "bench/count-orders"
OTHERS, GROUPS = 9, 2_000
"""Letters of others for each one that is replayed, and causes of them all."""
_KEY = f"'o-' || lpad(CAST(n / {OTHERS + 1} AS TEXT), 7, '0')"
_IS_OURS = f"n % {OTHERS + 1} = 0"
FILL = (
    "INSERT INTO pillarbox_dead_letters (consumer, hold_key, message_id, type, channel, message_key, content_type,"
    " headers, body, state, attempts, reason, history, stack, fingerprint, first_failed_at, last_failed_at, replays)"
    f" SELECT CASE WHEN {_IS_OURS} THEN '{CONSUMER}' ELSE 'shop/c' || n % {OTHERS + 1} END, 'k:' || {_KEY}, 'm' || n,"
    f" 'order.placed', 'topic:order', {_KEY}, 'application/json', '{json.dumps(HEADERS)}',"
    f" CASE WHEN {_IS_OURS} THEN convert_to(replace('{BODY.decode()}', 'o-0000001', {_KEY}), 'UTF8')"
    " ELSE '\\x7b7d' END, 'dead', 5, 'exhausted',"
    ' \'[{"attempt":5,"at":"2026-01-02T03:04:05Z","error_type":"ValueError","error":"no stock of \' || n || \'"}]\','
    f" repeat('frame ', 50), 'f' || n % {GROUPS}, now_us, now_us, 0"
    " FROM generate_series(0, LETTERS - 1) AS n,"
    " (SELECT CAST(extract(epoch FROM now()) * 1000000 AS BIGINT) AS now_us) AS instant",
    "INSERT INTO pillarbox_dead_letter_groups (consumer, fingerprint, type, error_type, example, state, regressed,"
    " note, arrivals, dead, first_seen, last_seen) SELECT consumer, fingerprint, min(type), 'ValueError', 'no stock',"
    " 'open', 0, '', count(*), count(*), min(first_failed_at), max(last_failed_at)"
    " FROM pillarbox_dead_letters GROUP BY consumer, fingerprint",
    "INSERT INTO pillarbox_holds (consumer, hold_key, state, due_at, lease_until, since)"
    " SELECT consumer, hold_key, 'blocked', 0, 0, first_failed_at FROM pillarbox_dead_letters"
    f" WHERE consumer = '{CONSUMER}'",
)


class Handled(Observer):
    """Says when so many messages were handled."""

    def __init__(self, expected: int) -> None:
        self.count = 0
        self.all_handled = asyncio.Event()
        self._expected = expected

    def notice(self, event: Event, /) -> None:
        self.count += isinstance(event, MessageHandled)
        if self.count >= self._expected:
            self.all_handled.set()


async def fill(box: Pillarbox, count: int) -> None:
    """Bury ``count`` letters of the consumer, each holding its key, among those of others."""
    await box.migrate()
    async with box.transaction() as tx:
        await tx.execute(text(CREATE_ACCOUNTS))
        await tx.execute(text(FILL_ACCOUNTS["postgresql"]))
        for statement in FILL:
            await tx.exec_driver_sql(statement.replace("LETTERS", str(count * (OTHERS + 1))))
    async with box.store.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM ANALYZE"))
        await connection.execute(text("CHECKPOINT"))


async def enqueue(box: Pillarbox) -> float:
    """Ask for the replay and make all due, as the command line does; return the seconds it took."""
    clock = SystemClock()
    driver = replay_driver_of(box.store, clock=clock)
    began = time.perf_counter()
    run = await box.dead_letters.replay_all(DeadLetterFilter(consumer=CONSUMER), by="bench")
    look_at = clock.monotonic()
    while run.count(ItemState.PENDING):
        await driver.round()
        now = clock.monotonic()
        if now >= look_at or driver.rest:
            run = await box.dead_letters.run(run.id)
            look_at = look_again_at(now, clock.monotonic())
    took = time.perf_counter() - began
    await driver.leave()
    async with box.transaction() as tx:  # as autovacuum does within a minute
        await tx.execute(text("ANALYZE pillarbox_holds, pillarbox_held, pillarbox_dead_letters"))
    return took


async def groups_ms(box: Pillarbox) -> float:
    """Return how long it takes to look at the groups, once the statement is prepared."""
    took: list[float] = []
    for _ in range(12):
        began = time.perf_counter()
        await box.dead_letters.groups()
        took.append((time.perf_counter() - began) * 1000)
    return median(took[6:])


def make_box(todo: Task) -> Pillarbox:
    """Make a box with one connection for its runs, and one for what goes on beside them."""
    engine = create_async_engine(postgresql_store(make_url(todo.url)).engine.url, pool_size=2, max_overflow=0)
    return Pillarbox("bench", store=engine, broker=FeedBroker([]))


async def main() -> None:
    """Replay all letters of a consumer, and see that each counted once."""
    todo = task()
    box = make_box(todo)
    await fill(box, todo.count)
    box.on(OrderPlaced, name="count-orders", concurrency=1)(count_orders)
    handled = Handled(todo.count)
    box.observe(handled)
    looked_at = await groups_ms(box)
    enqueued = await enqueue(box)
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    async with box.running(relay=False):
        await handled.all_handled.wait()
        stopwatch.report(handled.count, enqueue_s=enqueued, groups_ms=looked_at)
        async with box.transaction() as tx:
            assert (await tx.execute(text("SELECT sum(orders) FROM accounts"))).scalar() == todo.count
            states = text("SELECT DISTINCT state FROM pillarbox_dead_letters WHERE consumer = :consumer")
            assert (await tx.execute(states, {"consumer": CONSUMER})).scalars().all() == ["resolved"]
    await box.store.engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
