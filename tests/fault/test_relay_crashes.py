"""Relays killed at random: nothing is lost, and what is published twice is within the window."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests import effort
from tests.fault.killing import kill_again_and_again
from tests.fault.programs import Demand, relay, relay_within, write
from tests.fault.recording import records
from tests.fault.story import TOPIC, WINDOW, Setting, Writing, committed, entry_in, pending, prepare
from tests.history import Event, check
from tests.waiting import wait_until

if TYPE_CHECKING:
    from random import Random

    from pillarbox.relational import RelationalStore
    from tests.fault.workers import Workers

DRAIN = timedelta(seconds=90)
ACCOUNTS = [f"account-{number}" for number in range(100)]
BACKLOG = effort.of(2_000, 1_000)


@pytest.mark.parametrize(
    ("setting", "kills", "per_message_ms"),
    [
        ("asyncpg-polling", effort.of(50, 12), 10),
        ("asyncpg-sequence", effort.of(10, 5), 10),
        ("asyncpg-log", effort.of(10, 5), 10),
        ("sqlite-polling", effort.of(10, 6), 25),
        ("sqlite-sequence", effort.of(8, 4), 25),
    ],
    indirect=["setting"],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_killed_relays_lose_nothing_and_repeat_no_more_than_the_window(
    setting: Setting, kills: int, per_message_ms: float, store: RelationalStore, workers: Workers, rng: Random
) -> None:
    setting = replace(setting, lease=timedelta(milliseconds=900))  # a third of it must outlast a throttled batch
    await prepare(setting, ACCOUNTS)
    log, stop = workers.folder / "broker.log", workers.folder / "stop"
    demand = Demand(writers=4, commits=workers.folder / "commits", stop=stop, backlog=BACKLOG)
    writer = workers.start(write, setting, Writing(accounts=ACCOUNTS, events=10**6, seed=rng.randrange(10**6)), demand)

    in_flight = await kill_again_and_again(
        lambda: workers.start(relay, setting, log, per_message_ms), kills=kills, rng=rng
    )
    stop.touch()
    assert await writer.ended(DRAIN) == 0
    workers.start(relay, replace(setting, window=600), log, name="fast")
    await wait_until(lambda: _nothing_pending(store), DRAIN)

    taken = [record.event for record in records(log)]
    verdict = check(await committed(store), taken)
    print(f"{kills} kills, {in_flight:.0%} in flight, {len(taken)} copies, {verdict.duplicates} duplicates")
    verdict.assert_sound(max_duplicates=WINDOW * kills)
    assert in_flight >= (0.4 if effort.THOROUGH else 0.2), "the kills came while there was nothing to repeat"


@pytest.mark.parametrize(
    ("setting", "kills"),
    [("psycopg", effort.of(50, 12)), ("sqlite", effort.of(15, 6))],
    indirect=["setting"],
    ids=["psycopg", "sqlite"],
)
async def test_killed_relays_within_the_database_repeat_nothing(
    setting: Setting, kills: int, store: RelationalStore, workers: Workers, rng: Random
) -> None:
    await prepare(setting, ACCOUNTS, consumers=["reader"])
    stop = workers.folder / "stop"
    demand = Demand(writers=4, commits=workers.folder / "commits", stop=stop, backlog=BACKLOG)
    writer = workers.start(write, setting, Writing(accounts=ACCOUNTS, events=10**6, seed=rng.randrange(10**6)), demand)

    in_flight = await kill_again_and_again(lambda: workers.start(relay_within, setting), kills=kills, rng=rng)
    stop.touch()
    assert await writer.ended(DRAIN) == 0
    await wait_until(lambda: _nothing_pending(store), DRAIN)

    moved = await _queued(store)
    print(f"{kills} kills, {in_flight:.0%} in flight, {len(moved)} moved")
    check(await committed(store), moved).assert_sound(max_duplicates=0)


async def _nothing_pending(store: RelationalStore) -> bool:
    return await pending(store) == 0


async def _queued(store: RelationalStore) -> list[Event]:
    from pillarbox.channel import Subscription

    reader = Subscription(consumer="bank/reader", channels=(TOPIC,))
    messages = await store.run(store.queue.read(reader, slots=range(64), leave_out=(), limit=10**6))
    entries = [entry_in(one.message) for one in messages]
    return [Event(entry.token, entry.account, entry.seq) for entry in entries]
