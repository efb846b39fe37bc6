"""A relay that is frozen for longer than its lease and goes on as if nothing had happened."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from pillarbox.relational.tables import members
from pillarbox.relay import RelayKind
from tests.fault.programs import relay
from tests.fault.recording import count_records, has_worked, records, was_busy
from tests.fault.relay_scene import RelayScene
from tests.fault.story import SETTINGS, Entered, Setting, committed, ledger, pending, prepare, stay_open
from tests.history import check
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from tests.fault.workers import Worker, Workers

DRAIN = timedelta(seconds=60)
ACCOUNTS = [f"account-{number}" for number in range(20)]
ENTRIES = 400


async def fill(box: Pillarbox) -> None:
    """Make entries of every account in turn."""
    entries = [Entered(ACCOUNTS[number % 20], number // 20 + 1, f"entry-{number}") for number in range(ENTRIES)]
    async with box.transaction() as tx:
        rows = [{"token": one.token, "account": one.account, "seq": one.seq} for one in entries]
        await tx.execute(ledger.insert(), rows)
        await box.publish_all(entries, tx=tx)


async def freeze_outside_of_a_transaction(worker: Worker, box: Pillarbox) -> None:
    """Freeze ``worker``; where there is one writer at a time, not while it has the lock that all others wait for."""
    worker.freeze()
    while box.store.traits.single_writer and not _can_write(box.store.engine.url.database or ""):
        worker.thaw()
        await stay_open(5)
        worker.freeze()


def _can_write(file: str) -> bool:
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True


@pytest.mark.parametrize("setting", SETTINGS, indirect=True)
async def test_a_relay_frozen_beyond_its_lease_changes_nothing_when_it_goes_on(
    setting: Setting, box: Pillarbox, workers: Workers
) -> None:
    await prepare(setting, ACCOUNTS)
    await fill(box)
    log, gate = workers.folder / "broker.log", workers.folder / "gate"
    frozen = workers.start(relay, setting, log, 5, name="frozen")
    await wait_until(lambda: count_records(log) > 30, DRAIN)
    await freeze_outside_of_a_transaction(frozen, box)
    left = await pending(box.store)

    heir = workers.start(relay, setting, log, 1, gate, name="heir")  # it owns everything, but sends nothing yet
    await stay_open(3 * setting.lease.total_seconds() * 1000)
    await wait_until(lambda: has_worked(heir.mark), DRAIN)
    thawed_at = await _heartbeats(box)
    frozen.thaw()
    if setting.kind is RelayKind.POLLING:
        await wait_until(lambda: _all_beat_after(box, thawed_at), DRAIN)
    else:  # who waits for all slots is no member
        await wait_until(lambda: not was_busy(frozen.mark), DRAIN)

    settled_late = left - await pending(box.store)
    gate.touch()
    await wait_until(lambda: _nothing_pending(box), DRAIN)
    verdict = check(await committed(box.store), [record.event for record in records(log)])
    print(f"{left} left at the freeze, {settled_late} fewer after it, {verdict.duplicates} duplicates")
    verdict.assert_sound(max_duplicates=setting.window)
    assert settled_late <= setting.window // 3, "at most the statement that the server already had"


async def test_what_was_published_under_a_lost_lease_is_not_settled() -> None:
    scene = await RelayScene.filled(fill)
    first, second = scene.relay("first"), scene.relay("second")
    await first.publish_without_settling()

    await scene.expire_leases()
    await second.keeper.keep()
    await first.publication.flush()

    assert scene.refused() == scene.sent()
    assert await pending(scene.box.store) == ENTRIES
    await scene.close()


async def _heartbeats(box: Pillarbox) -> dict[str, int]:
    async with box.store.engine.connect() as connection:
        rows = await connection.execute(select(members.c.owner, members.c.expires_at))
        return {row.owner: row.expires_at for row in rows}


async def _all_beat_after(box: Pillarbox, then: dict[str, int]) -> bool:
    now = await _heartbeats(box)
    return all(now.get(owner, 0) > expires_at for owner, expires_at in then.items())


async def _nothing_pending(box: Pillarbox) -> bool:
    return await pending(box.store) == 0
