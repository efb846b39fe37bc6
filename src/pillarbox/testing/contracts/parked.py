"""The rules of parked records: an operator releases them or gives them up, and their key goes on in order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from pillarbox.outbox import ParkedRecord
from pillarbox.testing.contracts.harness import (
    StoreHarness,
    Tenant,
    append,
    make_message,
    make_record,
    read_all,
    read_ids,
    rolled_back,
    take_all,
)
from pillarbox.testing.contracts.slot_reader import counts, park, put_behind
from pillarbox.testing.waiting import assert_blocked

WHY = "the mapping was wrong"


class ParkedRecordsContract:
    """What every ``ParkedRecords`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_parked_record_is_found_with_its_reason_and_those_behind_it(self, harness: StoreHarness) -> None:
        """It keeps its message and its position."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"), make_record("m2"))
        position = (await read_all(harness))[0].position
        await park_first(harness, tenant)
        await put_rest_behind(harness, tenant)

        (found,) = await find(harness)

        assert (found.position, found.message, found.behind) == (position, make_message("bad"), 2)
        assert "larger than the broker takes" in found.reason
        assert abs(found.parked_at - datetime.now(UTC)) < timedelta(hours=1)

    async def test_parked_records_are_paged_in_the_order_of_their_positions(self, harness: StoreHarness) -> None:
        """Each page starts above the last position of the one before; records that are only held are not listed."""
        tenant = await take_all(harness)
        await append(harness, *(make_record(f"m{number}", f"k{number}") for number in range(5)))
        for _ in range(5):
            await park_first(harness, tenant)

        first = await find(harness, limit=3)
        second = await find(harness, after=first[-1].position, limit=3)

        assert [one.message.id for one in (*first, *second)] == [f"m{number}" for number in range(5)]
        assert len(first) == 3

    async def test_a_released_key_stands_in_the_outbox_as_it_stood(self, harness: StoreHarness) -> None:
        """In order, before what was published meanwhile, and held no longer."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"), make_record("m2"), make_record("free", "other"))
        before = [one.position for one in await read_all(harness)]
        await park_first(harness, tenant)
        await put_behind(harness, tenant, *before[1:3])
        await append(harness, make_record("new"))

        assert await release(harness, "bad") == 3

        after = await read_all(harness)
        assert [one.message.id for one in after] == ["bad", "m1", "m2", "free", "new"]
        assert [one.position for one in after][:4] == before
        assert not any(one.held for one in after)
        assert await counts(harness) == (5, 0, 0)

    async def test_a_released_record_without_a_key_goes_back_alone(self, harness: StoreHarness) -> None:
        """Other parked ones without a key stay."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1", None), make_record("m2", None))
        await park_first(harness, tenant)
        await park_first(harness, tenant)

        assert await release(harness, "m1") == 1
        assert await read_ids(harness) == ["m1"]
        assert await counts(harness) == (1, 1, 0)

    async def test_a_release_leaves_other_keys_and_destinations_parked(self, harness: StoreHarness) -> None:
        """The same key elsewhere is another key."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1"), make_record("m2", destination="topic:stock"), make_record("m3", "K"))
        for _ in range(3):
            await park_first(harness, tenant)

        assert await release(harness, "m1") == 1
        assert [one.message.id for one in await find(harness)] == ["m2", "m3"]

    async def test_what_is_not_parked_is_neither_released_nor_skipped(self, harness: StoreHarness) -> None:
        """Unknown, only held, or decided already."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("behind"))
        await park_first(harness, tenant)
        await put_rest_behind(harness, tenant)

        for identity in ("unknown", "behind"):
            assert await release(harness, identity) is None
            assert await skip(harness, identity) is None
        assert await release(harness, "bad") == 2
        assert await release(harness, "bad") is None
        assert await skip(harness, "bad") is None

    async def test_a_rolled_back_release_changes_nothing(self, harness: StoreHarness) -> None:
        """The decision is part of the transaction."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"))
        await park_first(harness, tenant)
        async with rolled_back(harness) as tx:
            await tx.run(harness.parked.release("bad"))

        assert [(one.message.id, one.held) for one in await read_all(harness)] == [("m1", True)]
        assert await counts(harness) == (1, 1, 0)

    async def test_a_released_record_can_be_parked_again(self, harness: StoreHarness) -> None:
        """The broker refused it once more."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"))
        await park_first(harness, tenant)
        await release(harness, "bad")
        await park_first(harness, tenant)

        assert [one.message.id for one in await find(harness)] == ["bad"]
        assert [(one.message.id, one.held) for one in await read_all(harness)] == [("m1", True)]

    async def test_a_skipped_record_is_given_up_and_its_key_goes_on(self, harness: StoreHarness) -> None:
        """It is not published, not listed and not counted."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"), make_record("m2"))
        await park_first(harness, tenant)
        await put_rest_behind(harness, tenant)

        assert await skip(harness, "bad") == 2

        assert [(one.message.id, one.held) for one in await read_all(harness)] == [("m1", False), ("m2", False)]
        assert await find(harness) == ()
        assert await counts(harness) == (2, 0, 0)

    async def test_a_key_stays_held_while_another_record_of_it_is_parked(self, harness: StoreHarness) -> None:
        """Skipping one of two refused records decides nothing about the other."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad-1"), make_record("bad-2"), make_record("m1"))
        await park_first(harness, tenant)
        await park_first(harness, tenant)

        assert await skip(harness, "bad-1") == 0
        assert [(one.message.id, one.held) for one in await read_all(harness)] == [("m1", True)]
        assert await skip(harness, "bad-2") == 0
        assert [(one.message.id, one.held) for one in await read_all(harness)] == [("m1", False)]

    async def test_a_relay_waits_for_a_release_and_then_puts_nothing_behind(self, harness: StoreHarness) -> None:
        """Its record stands in the outbox behind the whole key."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"), make_record("m2"))
        await park_first(harness, tenant)
        await put_behind(harness, tenant, (await read_all(harness))[0].position)
        (late,) = await read_all(harness)

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as operator:
            assert await operator.run(harness.parked.release("bad")) == 2
            relay = tasks.create_task(put_behind(harness, tenant, late.position))
            await assert_blocked(relay)

        assert relay.result() == 0
        assert await read_ids(harness) == ["bad", "m1", "m2"]

    async def test_a_release_waits_for_a_relay_and_then_finds_what_it_put_behind(self, harness: StoreHarness) -> None:
        """Nothing is stranded behind a hold that is gone."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"))
        await park_first(harness, tenant)
        (behind,) = await read_all(harness)

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as relay:
            moving = harness.slots.put_behind(tenant.scope, tenant.tokens, [behind.position])
            assert await relay.run(moving) == 1
            operator = tasks.create_task(release(harness, "bad"))
            await assert_blocked(operator)

        assert operator.result() == 2
        assert await read_ids(harness) == ["bad", "m1"]

    async def test_a_release_waits_for_a_relay_that_parks_another_record_of_the_key(
        self, harness: StoreHarness
    ) -> None:
        """And puts both back, or leaves the key held; never a parked record without its hold."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad-1"), make_record("bad-2"), make_record("m1"))
        await park_first(harness, tenant)
        second = (await read_all(harness))[0]

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as relay:
            parking = harness.slots.park(tenant.scope, tenant.tokens, second.position, reason="refused as well")
            assert await relay.run(parking)
            operator = tasks.create_task(release(harness, "bad-1"))
            await assert_blocked(operator)

        parked = [one.message.id for one in await find(harness)]
        held = [one.held for one in await read_all(harness)]
        assert operator.result() == 2
        assert (parked, held) == ([], [False, False, False])


async def park_first(harness: StoreHarness, tenant: Tenant) -> None:
    """Park the oldest pending record."""
    assert await park(harness, tenant, (await read_all(harness))[0].position)


async def put_rest_behind(harness: StoreHarness, tenant: Tenant) -> None:
    """Put every record that is marked held behind the parked one."""
    await put_behind(harness, tenant, *(one.position for one in await read_all(harness) if one.held))


async def find(harness: StoreHarness, *, after: int = 0, limit: int = 100) -> tuple[ParkedRecord, ...]:
    """List what is parked."""
    return tuple(await harness.source.run(harness.parked.find(after=after, limit=limit)))


async def release(harness: StoreHarness, identity: str) -> int | None:
    """Release a parked record in a committed transaction."""
    return await harness.source.run(harness.parked.release(identity))


async def skip(harness: StoreHarness, identity: str) -> int | None:
    """Give a parked record up in a committed transaction."""
    return await harness.source.run(harness.parked.skip(identity, by="ann", because=WHY))
