"""Naive versions of what the library does, each with the fault that it is known for; the checks must see every one.

A check that cannot tell the naive version from ours proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.app import assembly
from pillarbox.channel import Confirmed, Refused, Unknown
from pillarbox.errors import LeaseLostError
from pillarbox.observe import MessagesPublished
from pillarbox.relational.idempotency import RelationalInboxStore
from pillarbox.relational.outbox import RelationalSlotReader
from pillarbox.relational.tables import outbox
from pillarbox.relay import Dispatch, PendingRecord, ReadPlan, RelayKind, SequenceFeed, WatermarkPublication
from pillarbox.relay.dispatch import Sent
from pillarbox.relay.reader import Aside
from pillarbox.relay.sequence import Cursor, Window
from pillarbox.relay.watermark import _Entry
from pillarbox.stores.postgresql.sequence import PostgresSequenceReader
from pillarbox.transaction import Execute
from tests.fault.relay_scene import STEP, RelayScene
from tests.fault.story import (
    SQLITE_KINDS,
    Entered,
    Setting,
    applied,
    committed,
    effects,
    ledger,
    pending,
    prepare,
    prepare_in,
)
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
    if naive:
        box.store.slots = CursorReader(box.store.traits.key_locks)
    relay = scene.relay("one")

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
    if naive:
        scene.box.store.slots = UnfencedReader(None)
    first, second = scene.relay("first"), scene.relay("second")
    await first.publish_without_settling()
    await scene.expire_leases()
    await second.keeper.keep()

    await first.publication.flush()

    settled_nothing = await pending(scene.box.store) == len(ORDERS) and scene.refused() == scene.sent()
    assert settled_nothing is not naive
    await scene.close()


# --- publishing the next message of a key although the one before it failed ---


class Eager(Dispatch):
    """Publishes a batch as ``gather`` would: each message for itself."""

    async def send(self, records: Sequence[PendingRecord]) -> Sent:
        tokens = self._keeper.tokens
        results = await self._send(records)
        sent = Sent()
        for record, result in zip(records, results, strict=True):
            if isinstance(result, Confirmed):
                sent.confirmed[record.position] = tokens[record.slot]
        return sent


@pytest.mark.parametrize("kind", SQLITE_KINDS)
@pytest.mark.parametrize(
    ("dispatch", "faults"), [(Dispatch, set[str]()), (Eager, {"inversions"})], ids=["ours", "gather"]
)
async def test_nothing_of_a_key_overtakes_a_failure(
    dispatch: type[Dispatch], kind: RelayKind, faults: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "Dispatch", dispatch)
    scene = await RelayScene.filled(fill, kind=kind)
    relay = scene.relay("one", answers=[Unknown("the confirm was lost")])

    await relay.until(scene.is_drained)

    assert (await judged(scene)).faults().keys() == faults
    await scene.close()


# --- a watermark that knows less than ours ---


class Impatient(WatermarkPublication):
    """Moves the watermark past what is sent, before the confirm."""

    async def _publish(self, sending: Sequence[_Entry]) -> bool:
        found = await super()._publish(sending)
        for entry in sending:
            entry.is_done = True
        return found


class Forgetful(WatermarkPublication):
    """Drops what was behind a failure, and reads on."""

    async def _publish(self, sending: Sequence[_Entry]) -> bool:
        found = await super()._publish(sending)
        for entry in [entry for entry in sending if not entry.is_done]:
            self._entries.remove(entry)
        return found


class Unholding(WatermarkPublication):
    """Lets records of a held key go."""

    def _to_send(self) -> list[_Entry]:
        self._holds.clear()
        return super()._to_send()


class Leaping(SequenceFeed):
    """Sets the cursor to the end of what was read, as if all of it were settled."""

    async def settle(self, done: Sequence[PendingRecord], asides: Sequence[Aside]) -> None:
        highest = max(self._given)
        window = self._given[highest]
        new = Cursor(since=window.since, until=window.until, position=highest, highest=highest)
        await self._source.run(self._reader.advance(*self._fence, old=self._cursor, new=new, asides=asides))
        self._cursor = new
        for record in done:
            del self._given[record.position]


class Unfenced(SequenceFeed):
    """Does not mind that the cursor was moved by somebody else."""

    async def settle(self, done: Sequence[PendingRecord], asides: Sequence[Aside]) -> None:
        with suppress(LeaseLostError):
            await super().settle(done, asides)


class HighestPosition(PostgresSequenceReader):
    """Takes a position for a cursor where transactions commit late."""

    def following(self, since: str) -> Program[Window | None]:
        window = yield from super().following(since)
        return None if window is None else replace(window, floor=self.highest + 1)

    def read(self, window: Window, *, after: int, limit: int) -> Program[Sequence[PendingRecord]]:
        found = yield from super().read(window, after=max(after, self.highest), limit=limit)
        self.highest = max([self.highest, *(record.position for record in found)])
        return found

    highest = 0


@pytest.mark.parametrize(
    ("part", "naive", "faults"),
    [
        ("WatermarkPublication", WatermarkPublication, set[str]()),
        ("WatermarkPublication", Impatient, {"lost", "holes"}),
        ("WatermarkPublication", Forgetful, {"lost", "holes"}),
        ("WatermarkPublication", Unholding, {"inversions"}),
        ("SequenceFeed", Leaping, {"lost", "holes"}),
    ],
    ids=["ours", "before the confirm", "drops what failed", "ignores holds", "leaps to what was read"],
)
async def test_a_watermark_passes_nothing_that_is_not_confirmed(
    part: str, naive: type, faults: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, part, naive)
    scene = await RelayScene.filled(fill, kind=RelayKind.SEQUENCE)
    relay = scene.relay("one")
    relay.sender.by_token["entry-0"] = [Refused("too large")]
    relay.sender.by_token["entry-4"] = [Unknown("the confirm was lost")] * 3
    for _ in range(6):
        with suppress(LeaseLostError):
            await relay.step()
    await scene.expire_leases()  # the process ends; an heir begins at the watermark
    heir = scene.relay("heir")
    for _ in range(80):
        for parked in await scene.box.store.run(scene.box.store.parked.find(after=0, limit=9)):
            await scene.box.store.run(scene.box.store.parked.release(parked.message.id))
        await heir.step()
        scene.clock.advance(STEP)

    found = (await judged(scene)).faults().keys()

    assert found == faults if not faults else found & faults
    await scene.close()


@pytest.mark.parametrize(
    ("reader", "faults"),
    [(PostgresSequenceReader, set[str]()), (HighestPosition, {"lost", "holes"})],
    ids=["ours", "highest position"],
)
@pytest.mark.parametrize("setting", ["asyncpg-sequence"], indirect=True)
async def test_a_late_commit_behind_the_cursor_is_found(
    setting: Setting, box: Pillarbox, reader: type[PostgresSequenceReader], faults: set[str]
) -> None:
    await prepare(setting, ())
    box.store.traits = replace(box.store.traits, sequence=reader())
    scene = RelayScene(box, RelayKind.SEQUENCE)
    relay = scene.relay("one")

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


@pytest.mark.parametrize("naive", [False, True], ids=["ours", "without fence"])
async def test_a_cursor_that_another_relay_moved_is_not_overlooked(
    *, naive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if naive:
        monkeypatch.setattr(assembly, "SequenceFeed", Unfenced)
    scene = await RelayScene.filled(fill, kind=RelayKind.SEQUENCE)
    first, second = scene.relay("first"), scene.relay("second")
    await first.publish_without_settling()
    await first.publication.advance()
    await scene.expire_leases()
    await second.until(scene.is_drained)

    with suppress(LeaseLostError):
        await first.publication.flush()

    published = sum(told.count for told in scene.notices.told if isinstance(told, MessagesPublished))
    assert (published > len(ORDERS)) is naive, "only what was settled is told as published"
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
