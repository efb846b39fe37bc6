"""The rules of delayed records: when they are due they enter the outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from pillarbox.outbox import OutboxRecord
from pillarbox.testing.contracts.harness import (
    EVERY_SLOT,
    LONG,
    SHORT,
    StoreHarness,
    Tenant,
    append,
    keys_apart,
    make_record,
    needs_concurrent_writers,
    read_all,
    read_ids,
    slot_of,
    take_all,
    take_stale,
)
from pillarbox.testing.waiting import assert_blocked, wait_until

FAR_APART = timedelta(milliseconds=400)


def delayed(record: OutboxRecord, due_in: timedelta = timedelta(microseconds=1)) -> OutboxRecord:
    """Return ``record`` with a delay, by default one that is over at once."""
    return replace(record, due_in=due_in)


async def release(harness: StoreHarness, tenant: Tenant, *, limit: int = 100) -> int:
    """Release what is due now."""
    return await harness.source.run(harness.slots.release_due(tenant.scope, tenant.tokens, limit=limit))


async def has_beside(harness: StoreHarness, slots: Sequence[int]) -> bool:
    """Ask whether a look into ``slots`` is worth a transaction."""
    return await harness.source.run_single(harness.slots.has_beside(slots))


async def release_all(harness: StoreHarness, tenant: Tenant, expected: int) -> None:
    """Release until ``expected`` records were moved: the database's clock may be coarse."""
    moved: list[int] = []

    async def release_more() -> bool:
        moved.append(await release(harness, tenant))
        return sum(moved) >= expected

    await wait_until(release_more)
    assert sum(moved) == expected


class ScheduledRecordsContract:
    """What ``SlotReader.release_due`` keeps."""

    pytestmark = pytest.mark.asyncio

    async def test_a_due_record_becomes_pending_as_it_was_written(self, harness: StoreHarness) -> None:
        """And is scheduled no longer."""
        tenant = await take_all(harness)
        record = delayed(make_record("m1"), SHORT)
        await append(harness, record)

        await release_all(harness, tenant, 1)

        assert [one.message for one in await read_all(harness)] == [record.message]
        assert (await harness.source.run(harness.outbox.state())).scheduled == 0

    async def test_a_look_beside_tells_what_is_due_in_the_slots_asked_for(self, harness: StoreHarness) -> None:
        """So that a relay need not begin a transaction to find nothing."""
        mine, other = keys_apart(2)
        await append(harness, delayed(make_record("later", mine), LONG))
        assert not await has_beside(harness, EVERY_SLOT)
        await append(harness, delayed(make_record("m1", mine)))

        await wait_until(lambda: has_beside(harness, EVERY_SLOT))

        assert await has_beside(harness, [slot_of(mine)])
        assert not await has_beside(harness, [slot_of(other)])
        await release_all(harness, await take_all(harness), 1)
        assert not await has_beside(harness, EVERY_SLOT)

    async def test_a_record_that_is_not_due_stays_scheduled(self, harness: StoreHarness) -> None:
        """However often it is asked for."""
        tenant = await take_all(harness)
        await append(harness, delayed(make_record("m1"), LONG))

        assert await release(harness, tenant) == 0
        assert (await harness.source.run(harness.outbox.state())).scheduled == 1

    async def test_a_due_record_that_nobody_releases_ages_and_one_that_is_not_due_does_not(
        self, harness: StoreHarness
    ) -> None:
        """So that health tells where no relay takes it."""
        await append(harness, delayed(make_record("later"), LONG))
        assert (await harness.source.run(harness.outbox.state())).oldest_for is None
        await append(harness, delayed(make_record("due")))

        async def is_old() -> bool:
            state = await harness.source.run(harness.outbox.state())
            return state.oldest_for is not None and state.oldest_for > timedelta(milliseconds=10)

        await wait_until(is_old)

    async def test_due_records_enter_in_the_order_of_their_due_times(self, harness: StoreHarness) -> None:
        """Not in that of their publishing."""
        tenant = await take_all(harness)
        delays = {"third": FAR_APART * 2, "first": SHORT, "second": FAR_APART}  # each from the writing of its own row
        await append(harness, *(delayed(make_record(name), delay) for name, delay in delays.items()))

        await release_all(harness, tenant, 3)

        assert await read_ids(harness) == ["first", "second", "third"]

    async def test_a_due_record_takes_its_place_behind_what_is_there(self, harness: StoreHarness) -> None:
        """Its place in the key's order is its due time."""
        tenant = await take_all(harness)
        await append(harness, delayed(make_record("delayed")))
        await append(harness, make_record("undelayed"))

        await release_all(harness, tenant, 1)

        assert await read_ids(harness) == ["undelayed", "delayed"]

    async def test_no_more_are_released_than_the_limit(self, harness: StoreHarness) -> None:
        """The rest comes with the next pass, the oldest first."""
        tenant = await take_all(harness)
        await append(harness, *(delayed(make_record(f"m{number}", f"k{number}")) for number in range(5)))

        async def release_three() -> int:
            return await release(harness, tenant, limit=3)

        assert await wait_until(release_three) <= 3
        await release_all(harness, tenant, 5 - len(await read_all(harness)))
        assert await read_ids(harness) == [f"m{number}" for number in range(5)]

    async def test_only_leased_slots_are_released(self, harness: StoreHarness) -> None:
        """The others have an owner of their own."""
        tenant = await take_all(harness)
        mine, other = keys_apart(2)
        await append(harness, delayed(make_record("other", other)), delayed(make_record("mine", mine)))
        of_mine = Tenant(scope=tenant.scope, tokens=(tenant.tokens_by_slot[slot_of(mine)],))

        await release_all(harness, of_mine, 1)

        assert await read_ids(harness) == ["mine"]

    async def test_releasing_with_a_stale_token_changes_nothing(self, harness: StoreHarness) -> None:
        """The new owner releases."""
        stale = await take_stale(harness)
        await append(harness, delayed(make_record("m1")))

        assert await release(harness, stale) == 0
        assert (await harness.source.run(harness.outbox.state())).scheduled == 1

    async def test_a_key_that_an_open_transaction_has_locked_is_passed_over(self, harness: StoreHarness) -> None:
        """The release does not wait for it; the other keys are released, this one with the next pass."""
        needs_concurrent_writers(harness)
        tenant = await take_all(harness)
        locked, free = keys_apart(2)
        later = [delayed(make_record("locked-1", locked)), delayed(make_record("locked-2", locked))]
        await append(harness, *later, delayed(make_record("free", free)))
        async with harness.source.begin() as producer:
            await producer.run(harness.outbox.append([make_record("producer", locked)]))

            await release_all(harness, tenant, 1)

            assert await read_ids(harness) == ["free"]

        await release_all(harness, tenant, 2)
        assert [one for one in await read_ids(harness) if one != "free"] == ["producer", "locked-1", "locked-2"]

    async def test_a_locked_key_with_more_records_than_the_limit_does_not_hold_up_the_others(
        self, harness: StoreHarness
    ) -> None:
        """However many of its records are due before theirs."""
        needs_concurrent_writers(harness)
        tenant = await take_all(harness)
        locked, free = keys_apart(2)
        await append(harness, *(delayed(make_record(f"locked-{number}", locked)) for number in range(5)))
        await append(harness, delayed(make_record("free", free)))
        async with harness.source.begin() as producer:
            await producer.run(harness.outbox.append([make_record("producer", locked)]))

            assert await wait_until(lambda: release(harness, tenant, limit=2)) == 1

            assert await read_ids(harness) == ["free"]

    async def test_a_producer_waits_while_its_key_is_released(self, harness: StoreHarness) -> None:
        """Positions that a release takes follow the order of commits like any others."""
        tenant = await take_all(harness)
        await append(harness, delayed(make_record("delayed")))

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as relay:

            async def release_within() -> int:
                return await relay.run(harness.slots.release_due(tenant.scope, tenant.tokens, limit=10))

            assert await wait_until(release_within) == 1
            await assert_blocked(tasks.create_task(append(harness, make_record("producer"))))

        assert await read_ids(harness) == ["delayed", "producer"]
