"""Sagas whose processes are killed at random: each ends, and the books of all sides are right (RELIABILITY G9)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests import effort
from tests.fault import branching_saga_story as branching
from tests.fault.killing import kill_again_and_again
from tests.fault.recording import Mark
from tests.fault.saga_story import Parcel, check_books, declare, drive, metadata
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from pillarbox import Pillarbox
    from tests.fault.story import Setting
    from tests.fault.workers import Workers

WITHIN = timedelta(seconds=effort.of(900, 90))


@pytest.mark.timeout(effort.of(1800, 300))
@pytest.mark.parametrize("setting", ["asyncpg", "mariadb", "sqlite"], indirect=True)
async def test_killed_orchestrators_end_every_saga_with_the_books_right(
    setting: Setting, box: Pillarbox, workers: Workers, rng: Random, tmp_path: Path
) -> None:
    count, kills = effort.of(300, 40), effort.of(100, 7)
    saga = declare(box, Mark(tmp_path / "mine"))
    await box.migrate()
    ids = [f"{rng.getrandbits(40):010x}" for _ in range(count)]
    async with box.store.begin() as transaction:
        await transaction.connection.run_sync(metadata.create_all)
    for start in range(0, count, 10):
        async with box.transaction() as tx:
            await box.sagas.start_all(saga, {one: Parcel(one) for one in ids[start : start + 10]}, tx=tx)

    in_step = await kill_again_and_again(lambda: workers.start(drive, setting), kills=kills, rng=rng, at_once=2)

    async def statuses() -> dict[str, str] | None:
        found = {one.saga_id: one.status for one in await box.sagas.list(limit=count)}
        return None if any(not status.is_ended for status in found.values()) else {**found}

    try:
        ended = await wait_until(statuses, WITHIN)
    except AssertionError as error:
        open_ones = [one for one in await box.sagas.list(limit=count) if not one.status.is_ended]
        error.add_note("\n".join([(await box.sagas.get(one.saga_id)).journal for one in open_ones[:3]]))
        raise
    assert ended is not None
    assert set(ended) == set(ids)
    print(f"{kills} kills, {in_step:.0%} in a step", await check_books(box, ended))


@pytest.mark.timeout(effort.of(1800, 300))
@pytest.mark.parametrize("setting", ["asyncpg", "mariadb", "sqlite"], indirect=True)
async def test_killed_sagas_with_steps_side_by_side_children_and_a_pivot_end_with_the_books_right(
    setting: Setting, box: Pillarbox, workers: Workers, rng: Random, tmp_path: Path
) -> None:
    count, kills = effort.of(300, 30), effort.of(100, 5)
    saga = branching.declare(box, Mark(tmp_path / "mine"))
    await box.migrate()
    ids = [f"{rng.getrandbits(40):010x}" for _ in range(count)]
    async with box.store.begin() as transaction:
        await transaction.connection.run_sync(branching.metadata.create_all)
    for start in range(0, count, 10):
        async with box.transaction() as tx:
            states = {one: branching.Order(one) for one in ids[start : start + 10]}
            await box.sagas.start_all(saga, states, tx=tx)

    in_step = await kill_again_and_again(
        lambda: workers.start(branching.drive, setting), kills=kills, rng=rng, at_once=2
    )

    async def have_ended() -> bool:
        return all(one.status.is_ended for one in await box.sagas.list(limit=2 * count))

    try:
        await wait_until(have_ended, WITHIN, what="the end of all sagas")
    except AssertionError as error:
        open_ones = [one for one in await box.sagas.list(limit=2 * count) if not one.status.is_ended]
        error.add_note("\n".join([(await box.sagas.get(one.saga_id)).journal for one in open_ones[:3]]))
        raise
    print(f"{kills} kills, {in_step:.0%} in a step", await branching.check_books(box, ids))
