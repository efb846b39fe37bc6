"""A router and its recipients killed at random: each gets every entry once, and in the order of its account."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests import effort
from tests.fault.killing import kill_again_and_again
from tests.fault.programs import CONSUMERS, Consuming, Demand, consume, relay_within, write
from tests.fault.story import Setting, Writing, applied, committed, count_effects, prepare
from tests.history import check
from tests.waiting import wait_until

if TYPE_CHECKING:
    from random import Random

    from pillarbox import Pillarbox
    from tests.fault.workers import Workers

DRAIN = timedelta(seconds=90)
ACCOUNTS = [f"account-{number}" for number in range(20)]


@pytest.mark.parametrize(
    ("setting", "kills"),
    [("psycopg", effort.of(20, 6)), ("sqlite", effort.of(8, 4))],
    indirect=["setting"],
    ids=["psycopg", "sqlite"],
)
async def test_killed_routers_forward_each_entry_once_and_in_order(
    setting: Setting, kills: int, box: Pillarbox, workers: Workers, rng: Random
) -> None:
    await prepare(setting, ACCOUNTS, consumers=["split"])
    stop = workers.folder / "stop"
    demand = Demand(writers=2, commits=workers.folder / "commits", stop=stop, backlog=80, queues_too=True)
    plan = Writing(accounts=ACCOUNTS, events=10**6, seed=rng.randrange(10**6))
    writer = workers.start(write, setting, plan, demand)
    workers.start(relay_within, setting)

    await kill_again_and_again(
        lambda: workers.start(consume, setting, Consuming(handle_ms=3, routed=True)), kills=kills, rng=rng
    )
    stop.touch()
    assert await writer.ended(DRAIN) == 0
    entries = await committed(box.store)

    async def all_arrived() -> bool:
        return await count_effects(box.store) >= len(entries) * len(CONSUMERS)

    await wait_until(all_arrived, DRAIN)

    print(f"{kills} kills, {len(entries)} entries, {len(CONSUMERS)} recipients")
    assert await box.dead_letters.list() == ()
    check(entries, effects=await applied(box.store), consumers=CONSUMERS).assert_sound()
