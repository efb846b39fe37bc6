"""A relay that is frozen for longer than its lease and goes on as if nothing had happened."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.fault.programs import relay
from tests.fault.recording import has_worked, lines, records
from tests.fault.story import Entered, Setting, committed, ledger, pending, prepare, stay_open
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


@pytest.mark.parametrize("setting", ["asyncpg", "sqlite"], indirect=True)
async def test_a_relay_frozen_beyond_its_lease_settles_nothing_that_another_has_taken_over(
    setting: Setting, box: Pillarbox, workers: Workers
) -> None:
    await prepare(setting, ACCOUNTS)
    await fill(box)
    log, gate = workers.folder / "broker.log", workers.folder / "gate"
    frozen = workers.start(relay, setting, log, 5, name="frozen")
    await wait_until(lambda: len(records(log)) > 30, DRAIN)
    frozen.freeze()
    left = await pending(box.store)

    heir = workers.start(relay, setting, log, 1, gate, name="heir")  # it owns everything, but sends nothing yet
    await stay_open(3 * setting.lease.total_seconds() * 1000)
    await wait_until(lambda: has_worked(heir.mark), DRAIN)
    frozen.thaw()
    await wait_until(lambda: _told(frozen, "SettlementRefused"), DRAIN)

    assert await pending(box.store) == left
    gate.touch()
    await wait_until(lambda: _nothing_pending(box), DRAIN)
    copies = [record.event for record in records(log)]
    verdict = check(await committed(box.store), copies)
    print(f"{left} left at the freeze, {verdict.duplicates} duplicates")
    verdict.assert_sound(max_duplicates=setting.window)


def _told(worker: Worker, kind: str) -> bool:
    return any(line["kind"] == kind for line in lines(worker.notices))


async def _nothing_pending(box: Pillarbox) -> bool:
    return await pending(box.store) == 0
