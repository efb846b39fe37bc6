"""Transactions that commit late: what was numbered early and became visible late is neither lost nor overtaken."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert

from pillarbox import RelaySettings
from tests import effort
from tests.fault.killing import ended, kill_every
from tests.fault.programs import Demand, relay, write
from tests.fault.recording import count_records, lines, records
from tests.fault.story import SETTINGS, Setting, Writing, audit, committed, pending, prepare, stay_open
from tests.fault.suppressing import count_suppressed
from tests.history import check
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from pillarbox.relational import RelationalStore
    from tests.fault.workers import Workers

DRAIN = timedelta(seconds=effort.of(600, 120))
ACCOUNTS = [f"account-{number}" for number in range(30)]
SHARE = effort.of(4, 1)
EVENTS = {"asyncpg-polling": 1_000 * SHARE, "asyncpg-sequence": 2_000 * SHARE, "asyncpg-log": 1_000 * SHARE}
"""With 500 elsewhere for each kind it is 5,000, or four times as many, most of them for the kind most at risk."""
BACKLOG = 2_000
KILL_EVERY_MS, MOST_KILLS = 300, 25
LONG = timedelta(seconds=2)
DELAY_S = 0.3


@pytest.mark.parametrize("setting", SETTINGS, indirect=True)
async def test_late_commits_are_neither_lost_nor_overtaken_while_relays_are_killed(
    setting: Setting, store: RelationalStore, workers: Workers, rng: Random, request: pytest.FixtureRequest
) -> None:
    setting = replace(setting, lease=timedelta(milliseconds=500))
    await prepare(setting, ACCOUNTS)
    log = workers.folder / "broker.log"
    events = EVENTS.get(request.node.callspec.id, 500 * SHARE)
    # so that writing takes some seconds, in which relays are killed
    hold_ms = 8_000 / events if store.traits.single_writer else 120_000 / events
    plan = Writing(accounts=ACCOUNTS, events=events // 2, hold_ms=hold_ms, rollbacks=0.1, together=4)
    demand = Demand(writers=6, commits=workers.folder / "commits", stop=workers.folder / "stop", backlog=BACKLOG)
    await _begin(workers, setting, replace(plan, events=1, hold_ms=0), demand, log)
    writers = [workers.start(write, setting, replace(plan, seed=rng.randrange(10**6)), demand) for _ in range(2)]

    kills = 1 + await kill_every(
        KILL_EVERY_MS, lambda: workers.start(relay, setting, log), most=MOST_KILLS, until=ended(writers), rng=rng
    )
    assert [await writer.ended(DRAIN) for writer in writers] == [0, 0]
    await wait_until(lambda: _nothing_pending(store), DRAIN)
    workers.end_all()

    entries, copies = await committed(store), records(log)
    verdict = check(entries, [copy.event for copy in copies])
    suppressed = await count_suppressed(setting.store, copies)
    print(f"{len(entries)} entries, {kills} kills, {verdict.duplicates} duplicates, {suppressed} suppressed")
    assert len(entries) >= events
    assert kills >= 4
    verdict.assert_sound(max_duplicates=setting.window * kills)
    assert suppressed == verdict.duplicates


async def _begin(workers: Workers, setting: Setting, plan: Writing, demand: Demand, log: Path) -> None:
    """Have a relay publish something, and kill it: a first one may have to wait for transactions, for its slot."""
    first = workers.start(relay, setting, log)
    workers.start(write, setting, plan, demand)
    await wait_until(lambda: count_records(log) > 0, DRAIN)
    first.kill()


@pytest.mark.parametrize("setting", ["asyncpg"], indirect=True)
async def test_a_transaction_left_open_delays_nothing_of_others(
    setting: Setting, store: RelationalStore, workers: Workers, rng: Random
) -> None:
    setting = replace(setting, relay=RelaySettings())
    await prepare(setting, ACCOUNTS)
    log, stop, commits = (workers.folder / name for name in ("broker.log", "stop", "commits"))
    workers.start(relay, setting, log)
    plan = Writing(accounts=ACCOUNTS, events=10**6, hold_ms=12, seed=rng.randrange(10**6))
    writer = workers.start(write, setting, plan, Demand(writers=3, commits=commits, stop=stop))
    await wait_until(lambda: count_records(log) > 200, DRAIN)

    async with store.begin() as unrelated:
        await unrelated.connection.execute(insert(audit), {"token": "of another"})
        opened_at = time.time()
        await stay_open(LONG.total_seconds() * 1000)
        closed_at = time.time()
    stop.touch()
    assert await writer.ended(DRAIN) == 0
    await wait_until(lambda: _nothing_pending(store), DRAIN)

    latencies = _latencies(commits, log)
    before = max(late for at, late in latencies if at < opened_at)
    during = max(late for at, late in latencies if opened_at <= at <= closed_at)
    print(f"{len(latencies)} entries; at most {before * 1000:.0f} ms before, {during * 1000:.0f} ms meanwhile")
    assert during <= before + DELAY_S


def _latencies(commits: Path, log: Path) -> list[tuple[float, float]]:
    """Return for each entry when its commit was known, and how long after that the broker had it."""
    taken = {record.event.id: record.at for record in records(log)}
    known = [(token, float(str(line["at"]))) for line in lines(commits) for token in line["tokens"]]  # type: ignore[attr-defined]
    return [(at, taken[token] - at) for token, at in known]


async def _nothing_pending(store: RelationalStore) -> bool:
    return await pending(store) == 0
