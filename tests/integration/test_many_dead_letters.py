"""A million dead letters on PostgreSQL: what operators look at stays quick, and a large replay is set-based."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, text

from pillarbox.app import SystemClock
from pillarbox.app.controlling import dead_letters_of, replay_driver_of
from pillarbox.deadletter import DeadLetterFilter, DeadLetters, DeadLetterState
from pillarbox.deadletter.driver import look_again_at
from pillarbox.deadletter.runs import ItemState
from pillarbox.idempotency import InboxSettings
from pillarbox.stores.postgresql import postgresql_store
from tests import effort

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pillarbox.relational import RelationalStore

pytestmark = [
    pytest.mark.skipif(not effort.THOROUGH, reason="a million rows: with PILLARBOX_THOROUGH=1 only"),
    pytest.mark.timeout(1200),
]
LETTERS, GROUPS, REPLAYED = 1_000_000, 2_000, 100_000
FILL = (
    "INSERT INTO pillarbox_dead_letters (consumer, hold_key, message_id, type, channel, message_key, content_type,"
    " headers, body, state, attempts, reason, history, stack, fingerprint, first_failed_at, last_failed_at, replays)"
    " SELECT 'shop/c' || n % 10, 'k:k' || n, 'm' || n, 'type.t' || n % 20, 'topic:t', 'k' || n, 'application/json',"
    " '{\"source\":\"shop\"}', '\\x7b7d', CASE WHEN n % 10 = 9 THEN 'resolved' ELSE 'dead' END, 5, 'exhausted',"
    ' \'[{"attempt":5,"at":"2026-01-02T03:04:05Z","error_type":"ValueError","error":"no stock of \' || n || \'"}]\','
    f" repeat('frame ', 50), 'f' || n % {GROUPS}, n, CAST(n AS BIGINT) * 1000000, 0"
    f" FROM generate_series(1, {LETTERS}) AS n",
    "INSERT INTO pillarbox_dead_letter_groups (consumer, fingerprint, type, error_type, example, state, regressed,"
    " note, arrivals, dead, first_seen, last_seen) SELECT consumer, fingerprint, min(type), 'ValueError', 'no stock',"
    " 'open', 0, '', count(*), count(*) FILTER (WHERE state = 'dead'), min(first_failed_at), max(last_failed_at)"
    " FROM pillarbox_dead_letters GROUP BY consumer, fingerprint",
)
LATE = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=LETTERS - 1000)
PAGES: dict[str, tuple[DeadLetterFilter, int]] = {
    "first page": (DeadLetterFilter(), 0),
    "deep page": (DeadLetterFilter(), LETTERS - 500),
    "of a consumer": (DeadLetterFilter(consumer="shop/c3"), LETTERS // 2),
    "of a type": (DeadLetterFilter(type="type.t7"), LETTERS // 2),
    "of a group": (DeadLetterFilter(group="f17"), LETTERS // 2),
    "of a key": (DeadLetterFilter(key="k999"), 0),
    "of a state": (DeadLetterFilter(state=DeadLetterState.RESOLVED), LETTERS // 2),
    "of a group in another state": (DeadLetterFilter(group="f19", state=DeadLetterState.RESOLVED), LETTERS // 2),
    "of a group in a state of few": (DeadLetterFilter(group="f19", state=DeadLetterState.REPLAYING), 0),
    "of a group in any state": (DeadLetterFilter(group="f19", state=None), 0),
    "of a consumer in any state": (DeadLetterFilter(consumer="shop/c3", state=None), LETTERS // 2),
    "lately failed": (DeadLetterFilter(since=LATE), 0),
    "with a text that many have": (DeadLetterFilter(text="NO STOCK"), LETTERS // 2),
    "of a group with a text": (DeadLetterFilter(group="f17", text="stock of 2017"), 0),
}


@pytest.fixture
async def store(postgresql_url: str) -> AsyncIterator[RelationalStore]:
    """A store with very many dead letters."""
    made = postgresql_store(make_url(postgresql_url).set(drivername="postgresql+psycopg"))
    made.wait_within(timedelta(minutes=10))
    await made.migrate()
    async with made.engine.begin() as connection:
        for statement in FILL:
            await connection.execute(text(statement.replace(":", "\\:")))
    async with made.engine.connect() as vacuuming:
        await vacuuming.execution_options(isolation_level="AUTOCOMMIT")
        await vacuuming.execute(text("VACUUM ANALYZE"))
    yield made
    await made.close()


async def quickest(work: Callable[[], Awaitable[object]], times: int = 7) -> float:
    """Return the seconds of the quickest of several calls; by the sixth the statement is prepared."""
    took: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        took.append(time.perf_counter() - began)
    return min(took)


async def test_a_million_letters_are_looked_through_and_replayed_quickly(store: RelationalStore) -> None:
    letters: DeadLetters = dead_letters_of(store, InboxSettings(keep=None))
    took = {"groups": await quickest(letters.groups)}
    for name, (where, after) in PAGES.items():

        async def page(where: DeadLetterFilter = where, after: int = after) -> None:
            await letters.list(where, after=after)

        took[name] = await quickest(page)

    async def old_letters() -> None:
        await store.run(store.operators.review.aged(timedelta(days=1)))

    counted = await quickest(old_letters)
    statistics = await quickest(letters.stats, times=2)

    began = time.perf_counter()
    run = await letters.replay_all(DeadLetterFilter(consumer="shop/c3"), by="ann")
    frozen = time.perf_counter() - began
    began = look_at = time.monotonic()
    driver = replay_driver_of(store, clock=SystemClock())
    while run.count(ItemState.PENDING):  # as the command line does
        await driver.round()
        if (now := time.monotonic()) >= look_at or driver.rest:
            run = await letters.run(run.id)
            look_at = look_again_at(now, time.monotonic())
    moved = time.monotonic() - began

    print({name: f"{seconds * 1000:.0f} ms" for name, seconds in took.items()})
    print(f"statistics {statistics:.2f} s; all that are old counted in {counted:.2f} s")
    print(f"{REPLAYED} letters frozen in {frozen:.2f} s, enqueued in {moved:.2f} s")
    assert (await letters.run(run.id)).items == {ItemState.ENQUEUED: REPLAYED}
    assert max(took.values()) < 0.3
    assert counted < 1  # nine in ten letters are dead and old
    assert moved < 30  # 8 s where nothing else is going on
