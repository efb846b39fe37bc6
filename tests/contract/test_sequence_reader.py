"""The outbox of every store, as a sequence relay sees it, keeps its contract; also in another database cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from sqlalchemy import text

from pillarbox.app.system_clock import SystemClock
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.observe import CursorRebased, Event, Observer
from pillarbox.relational import RelationalStore
from pillarbox.relay import SequenceFeed
from pillarbox.testing.contracts import SequenceReaderContract, StoreHarness
from pillarbox.testing.contracts.harness import LONG, append, keys_apart, make_record, read_ids
from pillarbox.testing.contracts.sequence_reader import begin_walk, pending

SERVERS = [f"postgresql+{driver}" for driver in ("psycopg", "asyncpg")]


class TestSequenceReader(SequenceReaderContract):
    """See the contract."""


class Told(Observer):
    def __init__(self) -> None:
        self.events: list[Event] = []

    def notice(self, event: Event, /) -> None:
        self.events.append(event)


async def move_to_another_cluster(store: RelationalStore, *, is_twin: bool = False) -> None:
    """Make the cursor one that was written elsewhere, by transactions whose numbers are far ahead of those here.

    Clusters that were copied from one image, as ``is_twin`` says, have the same identity.
    """
    elsewhere: Mapping[str, object] = {"system_id": "another", "snapshot": "900000000:900000000:"}
    moving = "UPDATE pillarbox_outbox_cursor SET since = :snapshot, until = :snapshot"
    moving += "" if is_twin else ", system_id = :system_id"
    async with store.begin() as tx:
        await tx.connection.execute(text(moving), elsewhere)


@pytest.mark.parametrize("store", SERVERS, indirect=True)
@pytest.mark.parametrize("keep", [False, True])
async def test_in_another_cluster_only_what_was_surely_published_leaves(
    store: RelationalStore, harness: StoreHarness, *, keep: bool
) -> None:
    """What came after the highest position that was ever published has numbers that mean nothing to the cursor."""
    walk = await begin_walk(harness)
    await append(harness, *(make_record(f"m{number}") for number in range(3)))
    await walk.publish()
    await move_to_another_cluster(store)
    await append(harness, make_record("new-1"), make_record("new-2"))
    told, published = Told(), list[str]()
    await harness.source.run(store.leases.leave(LeaseTerms(scope="relay", ttl=LONG), "first"))
    terms = LeaseTerms(scope="relay", ttl=LONG, whole=True)
    keeper = LeaseKeeper(terms, "me", store=store.leases, source=store, clock=SystemClock())
    await keeper.keep()
    assert store.traits.sequence is not None
    feed = SequenceFeed(reader=store.traits.sequence, keeper=keeper, observer=told, keep=keep)

    await feed.open()
    while found := await feed.next(limit=10):
        await feed.settle(found, ())
        published += [record.message.id for record in found]

    assert told.events == [CursorRebased()]
    assert published == ["new-1", "new-2"]
    assert await pending(harness) == 0
    assert await store.run(store.published.is_any_kept())
    assert len(await read_ids(harness)) == 2, "what the old cursor had passed left the outbox"


@pytest.mark.parametrize("store", SERVERS, indirect=True)
async def test_in_another_cluster_a_late_record_below_the_highest_stays(
    store: RelationalStore, harness: StoreHarness
) -> None:
    """It was not published when the cursor was written: the numbers of its transaction are those of that cluster."""
    walk = await begin_walk(harness)
    late, quick = keys_apart(2)
    async with harness.source.begin() as tx:
        await tx.run(harness.outbox.append([make_record("late", late)]))
        await append(harness, make_record("quick", quick))
        assert await walk.publish() == ["quick"]
    async with store.begin() as again:
        await again.connection.execute(text("UPDATE pillarbox_outbox_cursor SET system_id = 'another'"))
    assert await harness.source.run(walk.reader.load(*walk.fence)) is None

    while await harness.source.run(walk.reader.rebase(*walk.fence, keep=False, limit=1)):
        pass

    assert await read_ids(harness) == ["late"]
    assert await (await begin_walk(harness, walk.tenant)).publish() == ["late"]


@pytest.mark.parametrize("store", SERVERS, indirect=True)
@pytest.mark.parametrize("cursor", ["none", "of another cluster", "of a twin"])
async def test_in_a_cluster_of_fewer_transactions_records_of_later_ones_are_published(
    store: RelationalStore, harness: StoreHarness, cursor: str
) -> None:
    """A restored dump names transactions that will begin here in months, if ever."""
    if cursor != "none":
        await (await begin_walk(harness)).publish()
        await move_to_another_cluster(store, is_twin=cursor == "of a twin")
    await append(harness, *(make_record(f"m{number}") for number in range(3)))
    async with store.begin() as tx:
        await tx.connection.execute(text("UPDATE pillarbox_outbox SET transaction_id = '900000007' WHERE id <> 'm1'"))
    terms = LeaseTerms(scope="relay", ttl=LONG, whole=True)
    await harness.source.run(store.leases.leave(terms, "first"))
    keeper = LeaseKeeper(terms, "me", store=store.leases, source=store, clock=SystemClock())
    await keeper.keep()
    assert store.traits.sequence is not None
    feed = SequenceFeed(reader=store.traits.sequence, keeper=keeper, observer=Told())

    await feed.open()
    async with asyncio.timeout(10):
        found = await feed.next(limit=10)
        assert [record.message.id for record in found] == ["m0", "m1", "m2"]
        await feed.settle(found, ())
        assert await feed.next(limit=10) == ()

    assert await pending(harness) == 0


@pytest.mark.parametrize("store", SERVERS, indirect=True)
async def test_at_the_beginning_the_numbers_of_this_cluster_s_transactions_stay(
    store: RelationalStore, harness: StoreHarness
) -> None:
    """A record that got another number could be read before its elders, or twice."""
    walk = await begin_walk(harness)
    given: dict[str, str] = {}

    async def write(key: str) -> None:
        for number in range(30):
            async with store.begin() as tx:
                await tx.run(harness.outbox.append([make_record(f"{key}-{number}", key)]))
                found = await tx.connection.execute(text("SELECT CAST(pg_current_xact_id() AS text)"))
                given[f"{key}-{number}"] = found.scalar_one()

    async with asyncio.TaskGroup() as group:
        writers = [group.create_task(write(key)) for key in keys_apart(4)]
        while not all(writer.done() for writer in writers):
            assert await harness.source.run(walk.reader.load(*walk.fence)) == walk.cursor

    async with store.begin() as tx:
        rows = await tx.connection.execute(text("SELECT id, CAST(transaction_id AS text) FROM pillarbox_outbox"))
        assert {row[0]: row[1] for row in rows} == given
