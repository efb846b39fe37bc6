"""The rules of published records that are kept: what is removed, and how they are published once more."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from pillarbox.outbox import KeptRecords
from pillarbox.relay.reader import Aside
from pillarbox.testing.contracts.harness import (
    EVERY_SLOT,
    LONG,
    StoreHarness,
    Tenant,
    append,
    keys_apart,
    make_record,
    needs_concurrent_writers,
    read_all,
    read_ids,
    rolled_back,
    take_all,
    take_stale,
)
from pillarbox.testing.contracts.sequence_reader import begin_walk, pending
from pillarbox.testing.contracts.slot_reader import park
from pillarbox.testing.waiting import wait_until
from pillarbox.transaction import Program

NOTHING = timedelta(0)


class KeepingContract:
    """How published records come to be kept."""

    pytestmark = pytest.mark.asyncio

    async def test_what_is_settled_can_be_kept(self, harness: StoreHarness) -> None:
        """It leaves the outbox all the same."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1"), make_record("m2"))

        assert await settle_and_keep(harness, tenant, "m1") == 1

        assert await read_ids(harness) == ["m2"]
        assert await count(harness) == 1

    async def test_what_is_only_settled_is_not_kept(self, harness: StoreHarness) -> None:
        """Deleting is the default."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1"))
        (one,) = await read_all(harness)

        await harness.source.run_single(harness.slots.settle(tenant.scope, tenant.tokens, [one.position]))

        assert not await harness.source.run(harness.published.is_any_kept())

    async def test_a_stale_token_keeps_nothing(self, harness: StoreHarness) -> None:
        """The record is another's to settle."""
        stale = await take_stale(harness)
        await append(harness, make_record("m1"))

        assert await settle_and_keep(harness, stale, "m1") == 0

        assert await read_ids(harness) == ["m1"]
        assert await count(harness) == 0

    async def test_released_records_can_be_kept(self, harness: StoreHarness) -> None:
        """They were held before they were published."""
        tenant = await park_and_release(harness)
        released = await harness.source.run_single(harness.held_records.read(slots=EVERY_SLOT, paused=(), limit=10))
        positions = [one.position for one in released]

        settling = harness.held_records.settle(tenant.scope, tenant.tokens, positions, keep=True)
        assert await harness.source.run(settling) == 1

        assert await count(harness) == 1

    async def test_transferred_records_can_be_kept(self, harness: StoreHarness) -> None:
        """Whether they were held or not; where the database is the broker they are in its queues as well."""
        tenant = await park_and_release(harness, destination="queue:orders")
        await append(harness, make_record("m2", destination="queue:orders"))
        for transfer in (harness.transfer.transfer_released, harness.transfer.transfer):
            program = transfer(tenant.scope, tenant.tokens, slots=EVERY_SLOT, paused=(), limit=10, keep=True)
            assert (await harness.source.run(program)).moved == 1

        assert await count(harness) == 2
        assert await read_ids(harness) == []

    async def test_what_a_cursor_passed_is_kept(self, harness: StoreHarness) -> None:
        """It stays in the outbox; what is pending there is not kept, but waits."""
        walk = await begin_walk(harness)
        await append(harness, make_record("m1"), make_record("m2"))
        assert await walk.settle(await walk.read(limit=1))

        assert await harness.source.run(harness.published.is_any_kept())
        assert await count(harness) == 1


class PurgingContract:
    """How kept records are removed."""

    pytestmark = pytest.mark.asyncio

    async def test_what_is_young_stays(self, harness: StoreHarness) -> None:
        """Whichever way it is kept."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1"))
        await settle_and_keep(harness, tenant, "m1")
        await append(harness, make_record("m2"))
        await (await begin_walk(harness, tenant)).publish()
        await harness.source.run(harness.published.remember(every=NOTHING))

        assert await harness.source.run(harness.published.count_older(LONG)) == 0
        assert await purge(harness, LONG) == 0

    async def test_what_is_old_goes_batch_by_batch(self, harness: StoreHarness) -> None:
        """Up to the limit each time; counting says how many there will be."""
        tenant = await take_all(harness)
        await append(harness, *(make_record(f"m{number}") for number in range(5)))
        await settle_and_keep(harness, tenant, *(f"m{number}" for number in range(5)))

        assert await harness.source.run(harness.published.count_older(NOTHING)) == 5
        assert [await purge(harness, NOTHING, limit=2) for _ in range(4)] == [2, 2, 1, 0]
        assert await count(harness) == 0

    async def test_what_was_published_in_this_instant_is_as_old_as_nothing(self, harness: StoreHarness) -> None:
        """Also by a clock so coarse that publishing and purging see the same instant."""
        tenant = await take_all(harness)

        def keep_count_and_purge(position: int) -> Program[list[int]]:
            return [
                (yield from harness.slots.settle_and_keep(tenant.scope, tenant.tokens, [position])),
                (yield from harness.published.count_older(NOTHING)),
                (yield from harness.published.purge(NOTHING, limit=100)),
            ]

        for number in range(20):
            await append(harness, make_record(f"m{number}"))
            (record,) = await read_all(harness)
            assert await harness.source.run(keep_count_and_purge(record.position)) == [1, 1, 1]

    async def test_what_a_cursor_passed_is_removed_and_what_waits_is_not(self, harness: StoreHarness) -> None:
        """Also when it waits below what was passed."""
        walk = await begin_walk(harness)
        await append(harness, *(make_record(f"m{number}") for number in range(5)))
        assert await walk.settle(await walk.read(limit=3))

        assert await harness.source.run(harness.published.count_older(NOTHING)) == 3
        assert [await purge(harness, NOTHING, limit=2) for _ in range(3)] == [2, 1, 0]

        assert await read_ids(harness) == ["m3", "m4"]
        assert await (await begin_walk(harness, walk.tenant)).publish() == ["m3", "m4"]

    async def test_a_late_commit_is_never_removed(self, harness: StoreHarness) -> None:
        """Neither while its transaction is open, nor before it is published."""
        needs_concurrent_writers(harness)
        walk = await begin_walk(harness)
        slow, quick = keys_apart(2)
        async with harness.source.begin() as tx:
            await tx.run(harness.outbox.append([make_record("late", slow)]))
            await append(harness, make_record("m1", quick), make_record("m2", quick))
            await walk.publish()
            assert await purge(harness, NOTHING) == 2

        assert await purge(harness, NOTHING) == 0
        assert await walk.publish() == ["late"]
        assert await purge(harness, NOTHING) == 1

    async def test_records_passed_since_the_cursor_was_last_noted_stay(self, harness: StoreHarness) -> None:
        """How old they are is only known from then on."""
        walk = await begin_walk(harness)
        await append(harness, make_record("m1"))
        await walk.publish()
        await harness.source.run(harness.published.remember(every=NOTHING))
        await _pass(harness)
        await append(harness, make_record("m2"))
        await walk.publish()

        moment = timedelta(microseconds=1)
        assert await harness.source.run(harness.published.count_older(moment)) == 1
        assert await purge(harness, moment) == 1
        assert await count(harness) == 1


class RepublishingContract:
    """How kept records are published once more."""

    pytestmark = pytest.mark.asyncio

    async def test_they_are_appended_in_their_old_order_with_their_ids(self, harness: StoreHarness) -> None:
        """Behind what waits already; batch by batch, and each once."""
        tenant = await take_all(harness)
        await append(harness, *(make_record(f"m{number}") for number in range(5)))
        await settle_and_keep(harness, tenant, *(f"m{number}" for number in range(5)))
        await append(harness, make_record("new"))
        wanted = await everything(harness)

        assert await harness.source.run(harness.published.count(wanted)) == 5
        assert [await republish(harness, wanted, limit=2) for _ in range(4)] == [2, 2, 1, 0]

        again = await read_all(harness)
        assert [one.message.id for one in again] == ["new", *(f"m{number}" for number in range(5))]
        assert again[1].message == make_record("m0").message
        assert not await harness.source.run(harness.published.is_any_kept())

    async def test_what_a_cursor_passed_is_republished_too(self, harness: StoreHarness) -> None:
        """And published by the same cursor, once, while others are republished."""
        walk = await begin_walk(harness)
        await append(harness, *(make_record(f"m{number}") for number in range(5)))
        await walk.publish()
        wanted = await everything(harness)

        assert await harness.source.run(harness.published.count(wanted)) == 5
        published: list[str] = []
        for expected in (2, 2, 1, 0, 0):
            assert await republish(harness, wanted, limit=2) == expected
            published += await walk.publish()

        assert published == [f"m{number}" for number in range(5)]
        assert await pending(harness) == 0

    @pytest.mark.parametrize("limit", [1, 2, 100])
    async def test_what_was_put_aside_goes_again_in_its_place(self, harness: StoreHarness, limit: int) -> None:
        """Not before those of its key that were published where they were."""
        walk = await begin_walk(harness)
        await append(harness, *(make_record(f"m{number}") for number in range(3)))
        first, refused, behind = await walk.read()
        asides = (Aside(position=refused.position, refused="no"), Aside(position=behind.position))
        assert await walk.settle([first, refused, behind], *asides)
        assert await harness.source.run(harness.parked.release("m1")) == 2
        positions = [refused.position, behind.position]
        assert await harness.source.run(harness.held_records.settle(*walk.fence, positions, keep=True)) == 2
        await append(harness, make_record("m3"))
        assert await walk.publish() == ["m3"]
        wanted = await everything(harness)

        while await republish(harness, wanted, limit=limit):
            pass

        assert await walk.publish() == ["m0", "m1", "m2", "m3"]

    async def test_only_what_was_published_in_the_time_named_goes_again(self, harness: StoreHarness) -> None:
        """By the time of publishing, whenever it was appended."""
        tenant = await take_all(harness)
        await append(harness, *(make_record(f"m{number}") for number in range(3)))
        await settle_and_keep(harness, tenant, "m0")
        since = await now(harness)
        await settle_and_keep(harness, tenant, "m1")
        until = await now(harness)
        await settle_and_keep(harness, tenant, "m2")

        assert await republish(harness, KeptRecords(since=since, until=until)) == 1
        assert await read_ids(harness) == ["m1"]

    async def test_between_two_notes_of_the_cursor_only_what_was_passed_goes_again(self, harness: StoreHarness) -> None:
        """A record that was appended long before it was published counts by when it was published."""
        walk = await begin_walk(harness)
        await append(harness, *(make_record(f"m{number}") for number in range(4)))
        instants: list[datetime] = []
        for _ in range(3):
            await harness.source.run(harness.published.remember(every=NOTHING))
            instants.append(await now(harness))
            assert await walk.settle(await walk.read(limit=1))
        await harness.source.run(harness.published.remember(every=NOTHING))

        assert await republish(harness, KeptRecords(since=instants[1], until=instants[2])) == 2
        assert await (await begin_walk(harness, walk.tenant)).publish() == ["m3", "m1", "m2"]

    async def test_type_key_and_destination_narrow_the_choice(self, harness: StoreHarness) -> None:
        """Each alone, and together; in both places."""
        tenant = await take_all(harness)
        await append(
            harness, make_record("m1", "a"), make_record("m2", "b"), make_record("m3", "a", destination="topic:x")
        )
        await settle_and_keep(harness, tenant, "m1", "m2", "m3")
        whole = await everything(harness)

        async def counted(**narrowed: str) -> int:
            return await harness.source.run(
                harness.published.count(KeptRecords(since=whole.since, until=whole.until, **narrowed))
            )

        assert [await counted(key="a"), await counted(destination="topic:x"), await counted(type="other")] == [2, 1, 0]
        assert await counted(type="order.placed", key="a", destination="topic:order") == 1

    async def test_a_batch_that_was_rolled_back_is_republished_later(self, harness: StoreHarness) -> None:
        """A crash doubles nothing: a batch is in the outbox, or it is still kept."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1"), make_record("m2"))
        await settle_and_keep(harness, tenant, "m1", "m2")
        wanted = await everything(harness)
        async with rolled_back(harness) as tx:
            assert await tx.run(harness.published.republish(wanted, limit=1)) == 1

        assert [await republish(harness, wanted, limit=1) for _ in range(3)] == [1, 1, 0]
        assert await read_ids(harness) == ["m1", "m2"]

    async def test_it_never_waits_for_a_key_while_it_holds_another(self, harness: StoreHarness) -> None:
        """Producers publish in several calls, in any order; with a batch of a thousand keys they would deadlock."""
        needs_concurrent_writers(harness)
        tenant = await take_all(harness)
        free, busy = keys_apart(2)
        await append(harness, make_record("m1", free), make_record("m2", busy), make_record("m3", free))
        await settle_and_keep(harness, tenant, "m1", "m2", "m3")
        wanted = await everything(harness)

        async with harness.source.begin() as producer:
            await producer.run(harness.outbox.append([make_record("new", busy)]))
            assert await republish(harness, wanted) == 2

        assert [await republish(harness, wanted) for _ in range(2)] == [1, 0]
        assert sorted(await read_ids(harness)) == ["m1", "m2", "m3", "new"]


class PublishedRecordsContract(KeepingContract, PurgingContract, RepublishingContract):
    """What every ``PublishedRecords`` keeps; subclass it and supply the fixture ``harness``."""


async def settle_and_keep(harness: StoreHarness, tenant: Tenant, *identities: str) -> int:
    """Settle the records of ``identities`` as a relay does that keeps them."""
    positions = [one.position for one in await read_all(harness) if one.message.id in identities]
    return await harness.source.run(harness.slots.settle_and_keep(tenant.scope, tenant.tokens, positions))


async def park_and_release(harness: StoreHarness, *, destination: str = "topic:order") -> Tenant:
    """Have one record that may go on after it was refused."""
    tenant = await take_all(harness)
    await append(harness, make_record("m1", destination=destination))
    assert await park(harness, tenant, (await read_all(harness))[0].position)
    assert await harness.source.run(harness.parked.release("m1")) == 1
    return tenant


async def now(harness: StoreHarness) -> datetime:
    """Return an instant after all that was done, and before all that will be, however coarse the database's clock."""
    await _pass(harness)
    instant = await harness.source.run(harness.published.now())
    await _pass(harness)
    return instant


async def _pass(harness: StoreHarness) -> None:
    """Wait until the database's clock shows another instant."""
    first = await harness.source.run(harness.published.now())

    async def is_later() -> bool:
        return await harness.source.run(harness.published.now()) > first

    await wait_until(is_later)


async def everything(harness: StoreHarness) -> KeptRecords:
    """Name all that was published so far, as an operator's command does."""
    until = await now(harness)
    await harness.source.run(harness.published.remember(every=NOTHING))
    return KeptRecords(since=until - timedelta(days=1), until=until)


async def count(harness: StoreHarness) -> int:
    """Count what is kept."""
    return await harness.source.run(harness.published.count(await everything(harness)))


async def purge(harness: StoreHarness, older_than: timedelta, *, limit: int = 100) -> int:
    """Remove one batch of old records."""
    return await harness.source.run(harness.published.purge(older_than, limit=limit))


async def republish(harness: StoreHarness, wanted: KeptRecords, *, limit: int = 100) -> int:
    """Republish one batch."""
    return await harness.source.run(harness.published.republish(wanted, limit=limit))
