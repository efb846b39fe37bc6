"""The rules of the outbox as a polling relay sees it: reading, settling, parking."""

from __future__ import annotations

import asyncio

import pytest

from pillarbox.outbox import OutboxState
from pillarbox.relay.reader import Aside, ReadPlan
from pillarbox.testing.contracts.harness import (
    EVERY_SLOT,
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
    take_over,
    take_stale,
)
from pillarbox.testing.contracts.scheduled import ScheduledRecordsContract
from pillarbox.testing.contracts.transfer import TransferContract
from pillarbox.testing.waiting import assert_blocked


class ReadingContract:
    """What a relay's pass over the outbox finds."""

    pytestmark = pytest.mark.asyncio

    async def test_the_oldest_records_come_first_up_to_the_limit(self, harness: StoreHarness) -> None:
        """In the order of their positions, whatever their slots."""
        keys = keys_apart(5)
        await append(harness, *(make_record(f"m{number}", keys[number % 5]) for number in range(20)))

        read = await read_all(harness, limit=12)

        assert [one.message.id for one in read] == [f"m{number}" for number in range(12)]
        assert [one.position for one in read] == sorted({one.position for one in read})

    async def test_only_wanted_slots_are_read(self, harness: StoreHarness) -> None:
        """The slots of others are none of our business."""
        mine, other = keys_apart(2)
        await append(harness, make_record("m1", mine), make_record("m2", other), make_record("m3", mine))

        read = await read_all(harness, slots=[slot_of(mine)])

        assert [(one.message.id, one.slot) for one in read] == [("m1", slot_of(mine)), ("m3", slot_of(mine))]
        assert await read_all(harness, slots=[]) == ()

    async def test_what_is_in_flight_is_left_out(self, harness: StoreHarness) -> None:
        """So that a second batch can be read while the first is published."""
        await append(harness, make_record("m1"), make_record("m2"), make_record("m3"))
        first, second, _ = await read_all(harness)

        read = await read_all(harness, in_flight=[first.position, second.position], limit=2)

        assert [one.message.id for one in read] == ["m3"]

    async def test_what_lies_between_those_in_flight_is_read(self, harness: StoreHarness) -> None:
        """It may have been committed later than they were."""
        await append(harness, *(make_record(f"m{number}") for number in range(5)))
        positions = [one.position for one in await read_all(harness)]

        for in_flight, expected in (
            ([0, 2], ["m1", "m3", "m4"]),
            ([3, 1, 0], ["m2", "m4"]),
            ([2, 1], ["m0", "m3", "m4"]),
        ):
            read = await read_all(harness, in_flight=[positions[number] for number in in_flight])
            assert [one.message.id for one in read] == expected

    async def test_paused_destinations_are_left_out(self, harness: StoreHarness) -> None:
        """A destination that takes nothing does not fill the batches of the others."""
        await append(harness, *(make_record(f"m{number}", destination="topic:deaf") for number in range(5)))
        await append(harness, make_record("heard", destination="topic:order"))

        read = await read_all(harness, paused=["topic:deaf"], limit=3)

        assert [one.message.id for one in read] == ["heard"]

    async def test_a_late_commit_behind_settled_positions_is_read(self, harness: StoreHarness) -> None:
        """Every pass starts at the oldest record; a cursor would lose it."""
        needs_concurrent_writers(harness)
        tenant = await take_all(harness)
        slow, quick = keys_apart(2)
        async with harness.source.begin() as tx:
            await tx.run(harness.outbox.append([make_record("late", slow)]))
            await append(harness, make_record("quick", quick))
            (found,) = await read_all(harness)
            assert await settle(harness, tenant, found.position) == 1

        (late,) = await read_all(harness)

        assert late.message.id == "late"
        assert late.position < found.position

    async def test_reading_takes_no_locks(self, harness: StoreHarness) -> None:
        """A reader that is slow to end stands in nobody's way."""
        needs_concurrent_writers(harness)
        tenant = await take_all(harness)
        await append(harness, make_record("m1"))
        plan = ReadPlan(slots=EVERY_SLOT, in_flight=(), paused=(), limit=10)
        async with harness.source.begin() as tx:
            (found,) = await tx.run(harness.slots.read(plan))

            await append(harness, make_record("m2"))
            assert await settle(harness, tenant, found.position) == 1

    async def test_records_of_a_held_key_are_marked(self, harness: StoreHarness) -> None:
        """The key is held at its destination; other destinations and keys are not."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1", "k"))
        assert await park(harness, tenant, (await read_all(harness))[0].position)
        await append(
            harness,
            make_record("behind", "k"),
            make_record("elsewhere", "k", destination="topic:stock"),
            make_record("another", "K"),
            make_record("spaced", "k "),
            make_record("keyless", None),
        )

        marks = {one.message.id: one.held for one in await read_all(harness)}

        assert marks == {"behind": True, "elsewhere": False, "another": False, "spaced": False, "keyless": False}


class SettlingContract:
    """How published records leave the outbox."""

    pytestmark = pytest.mark.asyncio

    async def test_settling_removes_what_is_named_and_counts_it(self, harness: StoreHarness) -> None:
        """Nothing else goes, and nothing goes twice."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1"), make_record("m2"), make_record("m3"))
        one, _, three = await read_all(harness)

        assert await settle(harness, tenant, one.position, three.position) == 2
        assert await settle(harness, tenant, one.position, three.position) == 0
        assert await read_ids(harness) == ["m2"]

    async def test_settling_with_a_stale_token_changes_nothing(self, harness: StoreHarness) -> None:
        """Another owner has taken over; the records are its to settle."""
        stale = await take_stale(harness)
        await append(harness, make_record("m1"))

        assert await settle(harness, stale, (await read_all(harness))[0].position) == 0
        assert await read_ids(harness) == ["m1"]

    async def test_settling_with_some_tokens_settles_their_slots_only(self, harness: StoreHarness) -> None:
        """A batch may lose a part of its slots."""
        tenant = await take_all(harness)
        kept, lost = keys_apart(2)
        await append(harness, make_record("kept", kept), make_record("lost", lost))
        positions = [one.position for one in await read_all(harness)]
        kept_only = Tenant(scope=tenant.scope, tokens=(tenant.tokens_by_slot[slot_of(kept)],))

        assert await settle(harness, kept_only, *positions) == 1
        assert await read_ids(harness) == ["lost"]

    async def test_a_token_of_another_scope_settles_nothing(self, harness: StoreHarness) -> None:
        """Scopes are leased apart."""
        tenant = await take_all(harness, "elsewhere")
        await append(harness, make_record("m1"))
        misdirected = Tenant(scope="relay", tokens=tenant.tokens)

        assert await settle(harness, misdirected, (await read_all(harness))[0].position) == 0

    async def test_settling_leaves_what_lies_between(self, harness: StoreHarness) -> None:
        """Only what was named goes, whether the positions follow each other or not."""
        tenant = await take_all(harness)
        await append(harness, *(make_record(f"m{number}") for number in range(6)))
        positions = [one.position for one in await read_all(harness)]

        assert await settle(harness, tenant, positions[5], positions[0], positions[2]) == 3
        assert await read_ids(harness) == ["m1", "m3", "m4"]
        assert await settle(harness, tenant, positions[4], positions[3]) == 2
        assert await read_ids(harness) == ["m1"]

    async def test_settling_without_tokens_or_positions_settles_nothing(self, harness: StoreHarness) -> None:
        """Empty lists are lists."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1"))

        assert await settle(harness, tenant) == 0
        assert await settle(harness, Tenant(scope="relay", tokens=()), (await read_all(harness))[0].position) == 0


class ParkingContract:
    """How an unpublishable record, and those behind it, are put aside."""

    pytestmark = pytest.mark.asyncio

    async def test_a_parked_record_is_out_of_the_way_and_counted(self, harness: StoreHarness) -> None:
        """It is not read again, and not lost."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1", "bad"), make_record("m2", "good"))

        assert await park(harness, tenant, (await read_all(harness))[0].position)

        assert await read_ids(harness) == ["m2"]
        assert await counts(harness) == (1, 1, 0)

    async def test_a_record_without_a_key_is_parked_alone(self, harness: StoreHarness) -> None:
        """There is nobody to be held."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1", None), make_record("m2", None))

        assert await park(harness, tenant, (await read_all(harness))[0].position)

        assert [(one.message.id, one.held) for one in await read_all(harness)] == [("m2", False)]

    async def test_parking_with_a_stale_token_changes_nothing(self, harness: StoreHarness) -> None:
        """The record is another's to judge, and its key is not held."""
        stale = await take_stale(harness)
        await append(harness, make_record("m1"))

        assert not await park(harness, stale, (await read_all(harness))[0].position)
        assert [one.held for one in await read_all(harness)] == [False]
        assert await counts(harness) == (1, 0, 0)

    async def test_parking_what_is_gone_changes_nothing(self, harness: StoreHarness) -> None:
        """It was settled meanwhile."""
        tenant = await take_all(harness)

        assert not await park(harness, tenant, 123_456)
        assert await counts(harness) == (0, 0, 0)

    async def test_a_key_can_be_parked_more_than_once(self, harness: StoreHarness) -> None:
        """Two records of a key were in flight and both were refused."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1"), make_record("m2"))

        assert [await park(harness, tenant, one.position) for one in await read_all(harness)] == [True, True]
        assert await counts(harness) == (0, 2, 0)

    async def test_parking_waits_for_a_takeover_and_then_changes_nothing(self, harness: StoreHarness) -> None:
        """The lease is looked at under its lock."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1"))
        position = (await read_all(harness))[0].position

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            await tx.run(take_over(harness))
            parking = tasks.create_task(park(harness, tenant, position))
            await assert_blocked(parking)

        assert parking.result() is False
        assert await read_ids(harness) == ["m1"]

    async def test_records_of_a_held_key_are_put_behind_the_parked_one(self, harness: StoreHarness) -> None:
        """They leave the hot table and are counted as held; the others stay."""
        tenant = await take_all(harness)
        held, free = keys_apart(2)
        await append(harness, make_record("bad", held))
        assert await park(harness, tenant, (await read_all(harness))[0].position)
        await append(harness, *(make_record(f"m{number}", held) for number in range(3)))
        await append(harness, make_record("free", free), make_record("keyless", None))

        moved = await put_behind(harness, tenant, *[one.position for one in await read_all(harness)])

        assert moved == 3
        assert await read_ids(harness) == ["free", "keyless"]
        assert await counts(harness) == (2, 1, 3)

    async def test_putting_behind_with_a_stale_token_changes_nothing(self, harness: StoreHarness) -> None:
        """Another owner does it."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"))
        bad, behind = await read_all(harness)
        assert await park(harness, tenant, bad.position)
        await harness.source.run(take_over(harness))

        assert await put_behind(harness, tenant, behind.position) == 0
        assert await counts(harness) == (1, 1, 0)


class SlotReaderContract(
    ReadingContract, SettlingContract, ParkingContract, ScheduledRecordsContract, TransferContract
):
    """What every ``SlotReader`` and ``OutboxTransfer`` keep; subclass it and supply the fixture ``harness``."""


async def settle(harness: StoreHarness, tenant: Tenant, *positions: int) -> int:
    """Settle ``positions`` as a relay does: one statement that commits by itself."""
    return await harness.source.run_single(harness.slots.settle(tenant.scope, tenant.tokens, positions))


async def park(harness: StoreHarness, tenant: Tenant, position: int) -> bool:
    """Park one record."""
    aside = Aside(position=position, refused="it is larger than the broker takes")
    return bool(await harness.source.run(harness.slots.put_aside(tenant.scope, tenant.tokens, [aside])))


async def put_behind(harness: StoreHarness, tenant: Tenant, *positions: int) -> int:
    """Put records behind the parked one of their key."""
    asides = [Aside(position=position, is_behind=True) for position in positions]
    return len(await harness.source.run(harness.slots.put_aside(tenant.scope, tenant.tokens, asides)))


async def counts(harness: StoreHarness) -> tuple[int, int, int]:
    """Return how many records are pending, parked and held."""
    state: OutboxState = await harness.source.run(harness.outbox.state())
    return state.pending, state.parked, state.held
