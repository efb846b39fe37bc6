"""Naive versions of what the library does, each with the fault that it is known for; the checks must see every one.

A check that cannot tell the naive version from ours proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.channel import Confirmed, Unknown
from pillarbox.relational.idempotency import RelationalInboxStore
from pillarbox.relational.outbox import RelationalSlotReader
from pillarbox.relational.tables import outbox
from pillarbox.relay import PendingRecord, ReadPlan, SendingPublication
from pillarbox.transaction import Execute
from tests.fault.relay_scene import RelayScene
from tests.fault.story import Entered, Setting, applied, committed, effects, ledger, pending, prepare, prepare_in
from tests.history import Verdict, check
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from pillarbox.transaction import Program

ORDERS = [Entered(f"account-{number % 3}", number // 3 + 1, f"entry-{number}") for number in range(9)]


async def enter(box: Pillarbox, tx: AsyncConnection, entries: Sequence[Entered]) -> None:
    rows = [{"token": one.token, "account": one.account, "seq": one.seq} for one in entries]
    await tx.execute(insert(ledger), rows)
    await box.publish_all(entries, tx=tx)


async def fill(box: Pillarbox) -> None:
    async with box.transaction() as tx:
        await enter(box, tx, ORDERS)


# --- a cursor on the position ---


class CursorReader(RelationalSlotReader):
    """Goes on after the highest position that it has seen, as if positions became visible in order."""

    highest = 0

    def read(self, plan: ReadPlan) -> Program[Sequence[PendingRecord]]:
        found = yield from super().read(plan)
        new = [record for record in found if record.position > self.highest]
        self.highest = max([self.highest, *(record.position for record in new)])
        return new


@pytest.mark.parametrize(
    ("naive", "faults"), [(False, set[str]()), (True, {"lost", "holes"})], ids=["ours", "cursor on the position"]
)
@pytest.mark.parametrize("setting", ["asyncpg"], indirect=True)
async def test_a_late_commit_behind_the_reader_is_found(
    setting: Setting, box: Pillarbox, *, naive: bool, faults: set[str]
) -> None:
    await prepare(setting, ())
    scene = RelayScene(box)
    reader = CursorReader(box.store.traits.key_locks) if naive else box.store.slots
    relay = scene.publication("one", reader=reader)

    async with box.transaction() as late:
        await enter(box, late, [Entered("late", 1, "late-1")])
        async with box.transaction() as tx:
            await enter(box, tx, [Entered("early", 1, "early-1")])
        await relay.until_idle()
    await relay.until_idle()
    async with box.transaction() as tx:
        await enter(box, tx, [Entered("late", 2, "late-2")])
    await relay.until_idle()

    assert (await judged(scene)).faults().keys() == faults


# --- settling without the token ---


class UnfencedReader(RelationalSlotReader):
    """Removes what it published, whoever owns it by now."""

    def settle(self, scope: str, tokens: Sequence[int], positions: Sequence[int]) -> Program[int]:
        statement = delete(outbox).where(outbox.c.position.in_(list(positions))).returning(outbox.c.position)
        return len((yield Execute(statement)))


@pytest.mark.parametrize("naive", [False, True], ids=["ours", "without token"])
async def test_a_settlement_under_a_lost_lease_is_refused(*, naive: bool) -> None:
    scene = await RelayScene.filled(fill)
    reader = UnfencedReader(None) if naive else scene.box.store.slots
    first, second = scene.publication("first", reader=reader), scene.publication("second")
    await first.publish_without_settling()
    await scene.expire_leases()
    await second.keeper.keep()

    await first.publication.flush()

    settled_nothing = await pending(scene.box.store) == len(ORDERS) and scene.refused() == scene.sent()
    assert settled_nothing is not naive
    await scene.close()


# --- publishing the next message of a key although the one before it failed ---


class Eager(SendingPublication):
    """Publishes a batch as ``gather`` would: each message for itself."""

    async def _publish(self, batch: Sequence[PendingRecord]) -> bool:
        tokens = self._keeper.tokens
        results = await self._send(batch)
        for record, result in zip(batch, results, strict=True):
            if isinstance(result, Confirmed):
                self._published[record.position] = tokens[record.slot]
        return True


@pytest.mark.parametrize(
    ("kind", "faults"),
    [(SendingPublication, set[str]()), (Eager, {"inversions"})],
    ids=["ours", "gather"],
)
async def test_nothing_of_a_key_overtakes_a_failure(kind: type[SendingPublication], faults: set[str]) -> None:
    scene = await RelayScene.filled(fill)
    relay = scene.publication("one", kind=kind, answers=[Unknown("the confirm was lost")])

    async def drained() -> bool:
        await relay.until_idle()
        return await pending(scene.box.store) == 0

    await wait_until(drained)

    assert (await judged(scene)).faults().keys() == faults
    await scene.close()


# --- an inbox that knows ids, but not whose ---


class NamelessInbox(RelationalInboxStore):
    """Takes every consumer for the same."""

    def record(self, consumer: str, message_ids: Sequence[str]) -> Program[Collection[str]]:
        return super().record("anybody", message_ids)


@pytest.mark.parametrize(
    ("inbox", "faults"),
    [(RelationalInboxStore, set[str]()), (NamelessInbox, {"missing_effects"})],
    ids=["ours", "without consumer"],
)
async def test_two_consumers_of_one_database_both_handle_a_message(
    inbox: type[RelationalInboxStore], faults: set[str]
) -> None:
    box = Setting(store="memory://", lease=timedelta(seconds=15)).box()
    await prepare_in(box)
    box.store.inbox = inbox()
    for name in ("post", "mirror"):
        declare(box, name)
    seen = Outcomes()
    box.observe(seen)

    async with box.running():
        await fill(box)
        await wait_until(lambda: seen.count >= 2 * len(ORDERS))
        entries, done = await committed(box.store), await applied(box.store)

    assert check(entries, effects=done, consumers=["post", "mirror"]).faults().keys() == faults


def declare(box: Pillarbox, consumer: str) -> None:
    @box.on(Entered, name=consumer)
    async def apply(entry: Entered, tx: AsyncConnection) -> None:
        row = {"consumer": consumer, "token": entry.token, "account": entry.account}
        await tx.execute(insert(effects), row)


class Outcomes:
    """Counts what consumers have done with."""

    count = 0

    def notice(self, event: object, /) -> None:
        self.count += type(event).__name__ in {"MessageHandled", "DuplicateSuppressed"}


async def judged(scene: RelayScene) -> Verdict:
    return check(await committed(scene.box.store), scene.log)
