"""Consumers killed at random, and messages that kill: effects happen once, and only the killer is blamed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import pytest

from pillarbox import Retry
from tests import effort
from tests.fault.killing import kill_again_and_again
from tests.fault.programs import CONSUMERS, Consuming, Demand, consume, relay_within, write
from tests.fault.recording import lines
from tests.fault.story import Entered, Setting, Writing, applied, committed, count_effects, prepare, waiting
from tests.history import check
from tests.waiting import wait_until

if TYPE_CHECKING:
    from random import Random

    from pillarbox import Pillarbox
    from tests.fault.workers import Worker, Workers

DRAIN = timedelta(seconds=effort.of(900, 90))
COPIES = 5
ACCOUNTS = [f"account-{number}" for number in range(40)]
KILLER = "killer"
NEIGHBOURS = [f"neighbour-{number}" for number in range(12)]
ATTEMPTS = 3


@pytest.mark.timeout(effort.of(3600, 300))
@pytest.mark.parametrize("setting", ["psycopg", "mariadb", "sqlite"], indirect=True)
async def test_killed_consumers_apply_each_entry_once_and_in_order(
    setting: Setting, box: Pillarbox, workers: Workers, rng: Random
) -> None:
    kills, least = effort.of(100, 5), effort.of(4_000, 1)  # transactions, each of an entry or more
    await prepare(setting, ACCOUNTS, consumers=CONSUMERS)
    stop = workers.folder / "stop"
    demand = Demand(writers=2, commits=workers.folder / "commits", stop=stop, backlog=80, queues_too=True)
    plan = Writing(accounts=ACCOUNTS, events=10**6, seed=rng.randrange(10**6))
    writer = workers.start(write, setting, plan, demand)
    workers.start(relay_within, setting, COPIES)

    in_handler = await kill_again_and_again(
        lambda: workers.start(consume, setting, Consuming(handle_ms=3)), kills=kills, rng=rng
    )
    await wait_until(lambda: len(lines(demand.commits)) >= least, DRAIN)
    stop.touch()
    assert await writer.ended(DRAIN) == 0
    entries = await committed(box.store)
    await wait_until(lambda: _all_settled(box, len(entries) * len(CONSUMERS)), DRAIN)
    await wait_until(lambda: _none_waits(box), DRAIN)

    print(f"{kills} kills, {in_handler:.0%} in a handler, {len(entries)} entries, {len(CONSUMERS)} consumers")
    letters = await box.dead_letters.list()
    assert [(letter.message.id, letter.reason, letter.attempts) for letter in letters] == []
    check(entries, effects=await applied(box.store), consumers=CONSUMERS).assert_sound()


@pytest.mark.parametrize(
    ("setting", "handle_ms"), [("psycopg", 0), ("asyncpg", 15)], indirect=["setting"], ids=["quick", "slow"]
)
async def test_only_the_message_that_kills_its_process_dies_of_it(
    setting: Setting, handle_ms: float, box: Pillarbox, workers: Workers
) -> None:
    await _publish_killer(setting, box)
    workers.start(relay_within, setting)
    how = Consuming(retry=Retry(attempts=ATTEMPTS), handle_ms=handle_ms, killers=frozenset({KILLER}), concurrency=4)

    ended = await _restart_until_settled(setting, how, workers, box, messages=len(NEIGHBOURS) + 1)

    print(f"{ended} processes ended")
    await _only_the_killer_died(box)
    assert ended >= ATTEMPTS
    assert await count_effects(box.store) == len(NEIGHBOURS) * len(CONSUMERS)


@pytest.mark.parametrize("setting", ["asyncpg"], indirect=True)
@pytest.mark.parametrize("kills_in", effort.of(["key", "handler"], ["key"]))
@pytest.mark.parametrize("outside", effort.of([False, True], [True]))
async def test_whoever_has_a_business_key_may_kill_by_it_as_well(
    setting: Setting, kills_in: Literal["key", "handler"], outside: bool, box: Pillarbox, workers: Workers
) -> None:
    """The function that finds the key is the user's, and is called before the handler."""
    await _publish_killer(setting, box)
    workers.start(relay_within, setting)
    how = Consuming(
        retry=Retry(attempts=ATTEMPTS), killers=frozenset({KILLER}), kills_in=kills_in, by_token=True, outside=outside
    )

    ended = await _restart_until_settled(setting, how, workers, box, messages=len(NEIGHBOURS) + 1)

    await _only_the_killer_died(box)
    assert ended >= ATTEMPTS
    if not outside:  # what has no transaction with its handler is done at least once
        assert await count_effects(box.store) == len(NEIGHBOURS) * len(CONSUMERS)


async def _publish_killer(setting: Setting, box: Pillarbox) -> None:
    """Publish an entry of each neighbour, and in their midst the one that kills."""
    await prepare(setting, [*NEIGHBOURS, KILLER], consumers=CONSUMERS)
    async with box.transaction() as tx:
        await box.publish_all([Entered(name, 1, name) for name in [*NEIGHBOURS[:6], KILLER, *NEIGHBOURS[6:]]], tx=tx)


async def _only_the_killer_died(box: Pillarbox) -> None:
    """Make sure that each consumer gave up the killer, and nothing else, after as many crashes as it has attempts."""
    letters = await box.dead_letters.list()
    assert {(letter.consumer, letter.message.key) for letter in letters} == {
        (f"bank/{consumer}", KILLER) for consumer in CONSUMERS
    }
    assert {(letter.reason, letter.attempts) for letter in letters} == {("crashed", ATTEMPTS)}
    assert await _affected(box) == {(consumer, neighbour) for consumer in CONSUMERS for neighbour in NEIGHBOURS}


async def _restart_until_settled(
    setting: Setting, how: Consuming, workers: Workers, box: Pillarbox, *, messages: int
) -> int:
    """Start a consumer whenever it has ended, until every message has its effect or is dead; return how often."""
    ended = 0
    current: list[Worker] = [workers.start(consume, setting, how)]

    async def settled() -> bool:
        nonlocal ended
        if current[0].exit_code is not None:
            ended += 1
            current[0] = workers.start(consume, setting, how)
        return len(await _affected(box)) + await box.dead_letters.count() >= messages * len(CONSUMERS)

    await wait_until(settled, DRAIN)
    return ended


async def _affected(box: Pillarbox) -> set[tuple[str, str | None]]:
    """Return each consumer with the accounts that it has touched."""
    return {(effect.consumer, effect.key) for effect in await applied(box.store)}


async def _none_waits(box: Pillarbox) -> bool:
    """Tell whether the last copies, too, have been looked at."""
    return await waiting(box.store, queues_too=True) == 0


async def _all_settled(box: Pillarbox, wanted: int) -> bool:
    return await count_effects(box.store) + await box.dead_letters.count() >= wanted
