"""One kind of relay takes over from another while everything goes on: the steps of ``docs/how-to/switch-relays.md``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pillarbox.relay import RelayKind
from tests.fault.programs import Demand, relay, write
from tests.fault.recording import count_records, records
from tests.fault.story import WINDOW, Setting, Writing, committed, pending, prepare
from tests.history import check
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from pillarbox.relational import RelationalStore
    from tests.fault.workers import Worker, Workers

PATIENCE = timedelta(seconds=90)
ACCOUNTS = [f"account-{number}" for number in range(10)]
COPIES = 200
LEASES = {"SIGTERM": timedelta(seconds=10), "kill -9": timedelta(seconds=3)}
"""A relay that ends in order gives its leases back: nobody waits for their end. One that lives must not lose its own
while others write without a pause, as on SQLite: each loss repeats messages beyond the bound."""
POLLING, SEQUENCE, LOG = RelayKind.POLLING, RelayKind.SEQUENCE, RelayKind.LOG


@pytest.mark.parametrize(
    ("setting", "end", "kinds"),
    [  # between them each way from one kind to another
        pytest.param("asyncpg", "SIGTERM", (POLLING, SEQUENCE, LOG, POLLING), id="postgresql-SIGTERM"),
        pytest.param("asyncpg", "kill -9", (POLLING, LOG, SEQUENCE, POLLING), id="postgresql-kill -9"),
        pytest.param("sqlite", "SIGTERM", (POLLING, SEQUENCE, POLLING), id="sqlite-SIGTERM"),
        pytest.param("sqlite", "kill -9", (POLLING, SEQUENCE, POLLING), id="sqlite-kill -9"),
    ],
    indirect=["setting"],
)
async def test_a_rolling_switch_of_relays_loses_and_reorders_nothing(
    setting: Setting, kinds: tuple[RelayKind, ...], end: str, store: RelationalStore, workers: Workers, rng: Random
) -> None:
    setting = replace(setting, lease=LEASES[end])
    await prepare(setting, ACCOUNTS)
    log, stop = workers.folder / "broker.log", workers.folder / "stop"
    hold_ms = 4 if store.traits.single_writer else 20
    plan = Writing(accounts=ACCOUNTS, events=10**6, hold_ms=hold_ms, seed=rng.randrange(10**6))
    demand = Demand(writers=4, commits=workers.folder / "commits", stop=stop, backlog=1_000)
    writer = workers.start(write, setting, plan, demand)
    running = [workers.start(relay, replace(setting, kind=kinds[0]), log, name=f"{kinds[0]}-0{half}") for half in "ab"]

    for number, kind in enumerate(kinds[1:], start=1):
        old = running
        await _have_published(log, old)
        running = [
            workers.start(relay, replace(setting, kind=kind), log, name=f"{kind}-{number}{half}") for half in "ab"
        ]
        for one in old:
            if end == "SIGTERM":
                one.terminate()
                assert await one.ended(PATIENCE) == 0
            else:
                one.kill()
    await _have_published(log, running)
    stop.touch()
    assert await writer.ended(PATIENCE) == 0
    await wait_until(lambda: _nothing_pending(store), PATIENCE)

    entries, copies = await committed(store), records(log)
    verdict = check(entries, [copy.event for copy in copies])
    print(f"{len(entries)} entries, {verdict.duplicates} duplicates over {len(kinds) - 1} switches by {end}")
    verdict.assert_sound(max_duplicates=0 if end == "SIGTERM" else WINDOW * 2 * (len(kinds) - 1))


async def _have_published(log: Path, relays: Sequence[Worker]) -> None:
    await wait_until(lambda: sum(count_records(log, sender=one.name) for one in relays) > COPIES, PATIENCE)


async def _nothing_pending(store: RelationalStore) -> bool:
    return await pending(store) == 0
