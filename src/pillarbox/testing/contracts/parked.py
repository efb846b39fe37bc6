"""The rules of parked records: an operator releases them or gives them up, and their key goes on in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from pillarbox.outbox import ParkedRecord
from pillarbox.relay.reader import Aside, PendingRecord
from pillarbox.testing.contracts.harness import (
    EVERY_SLOT,
    TOPIC,
    StoreHarness,
    Tenant,
    append,
    keys_apart,
    make_message,
    make_record,
    read_all,
    read_ids,
    rolled_back,
    slot_of,
    take_all,
    take_over,
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

    async def test_a_released_key_may_go_on_in_its_order(self, harness: StoreHarness) -> None:
        """From where it is held, since what was published meanwhile is in the outbox behind it."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"), make_record("m2"), make_record("free", "other"))
        before = [one.position for one in await read_all(harness)]
        await park_first(harness, tenant)
        await put_behind(harness, tenant, *before[1:3])
        await append(harness, make_record("new"))

        assert await release(harness, "bad") == 3

        assert [(one.message.id, one.position) for one in await read_released(harness)] == list(
            zip(["bad", "m1", "m2"], before[:3], strict=True)
        )
        assert [(one.message.id, one.held) for one in await read_all(harness)] == [("free", False), ("new", True)]
        assert await counts(harness) == (5, 0, 0)

    async def test_a_record_of_a_released_key_goes_behind_those_that_are_left(self, harness: StoreHarness) -> None:
        """And may go on with them at once."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"))
        await park_first(harness, tenant)
        await release(harness, "bad")

        await put_rest_behind(harness, tenant)

        assert await released_ids(harness) == ["bad", "m1"]
        assert await read_ids(harness) == []

    async def test_a_released_record_without_a_key_goes_on_alone(self, harness: StoreHarness) -> None:
        """Other parked ones without a key stay."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1", None), make_record("m2", None))
        await park_first(harness, tenant)
        await park_first(harness, tenant)
        assert not await harness.source.run_single(harness.slots.has_beside(EVERY_SLOT))

        assert await release(harness, "m1") == 1
        assert await harness.source.run_single(harness.slots.has_beside(EVERY_SLOT))
        assert await released_ids(harness) == ["m1"]
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

    async def test_a_skipped_record_is_given_up_and_its_key_goes_on(self, harness: StoreHarness) -> None:
        """It is not published, not listed and not counted."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"), make_record("m2"))
        await park_first(harness, tenant)
        await put_rest_behind(harness, tenant)

        assert await skip(harness, "bad") == 2

        assert await released_ids(harness) == ["m1", "m2"]
        assert await find(harness) == ()
        assert await counts(harness) == (2, 0, 0)

    async def test_skipping_the_last_record_of_a_key_ends_its_hold(self, harness: StoreHarness) -> None:
        """Nothing is left that a relay could settle."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"))
        await park_first(harness, tenant)

        assert await skip(harness, "bad") == 0

        assert [(one.message.id, one.held) for one in await read_all(harness)] == [("m1", False)]

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

    async def test_a_relay_waits_for_a_release_and_then_puts_its_record_behind(self, harness: StoreHarness) -> None:
        """Where it may go on with the whole key."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"), make_record("m2"))
        await park_first(harness, tenant)
        await put_behind(harness, tenant, (await read_all(harness))[0].position)
        (late,) = await read_all(harness)

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as operator:
            assert await operator.run(harness.parked.release("bad")) == 2
            relay = tasks.create_task(put_behind(harness, tenant, late.position))
            await assert_blocked(relay)

        assert relay.result() == 1
        assert await released_ids(harness) == ["bad", "m1", "m2"]

    async def test_a_release_waits_for_a_relay_and_then_finds_what_it_put_behind(self, harness: StoreHarness) -> None:
        """Nothing is stranded behind a decision that was taken without it."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"))
        await park_first(harness, tenant)
        (behind,) = await read_all(harness)

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as relay:
            aside = Aside(position=behind.position, is_behind=True)
            assert await relay.run(harness.slots.put_aside(tenant.scope, tenant.tokens, [aside]))
            operator = tasks.create_task(release(harness, "bad"))
            await assert_blocked(operator)

        assert operator.result() == 2
        assert await released_ids(harness) == ["bad", "m1"]

    async def test_a_release_waits_for_a_relay_that_parks_another_record_of_the_key(
        self, harness: StoreHarness
    ) -> None:
        """And releases both; never a parked record without its hold."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad-1"), make_record("bad-2"), make_record("m1"))
        await park_first(harness, tenant)
        second = (await read_all(harness))[0]

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as relay:
            aside = Aside(position=second.position, refused="refused as well")
            assert await relay.run(harness.slots.put_aside(tenant.scope, tenant.tokens, [aside]))
            operator = tasks.create_task(release(harness, "bad-1"))
            await assert_blocked(operator)

        assert operator.result() == 2
        assert await find(harness) == ()
        assert await released_ids(harness) == ["bad-1", "bad-2"]
        assert [one.held for one in await read_all(harness)] == [True]


class HeldRecordsContract:
    """What every ``HeldRecords`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_settled_records_are_gone_and_the_last_one_ends_the_hold(self, harness: StoreHarness) -> None:
        """What follows in the key goes its usual way again."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"), make_record("new"))
        await park_first(harness, tenant)
        await put_behind(harness, tenant, (await read_all(harness))[0].position)
        await release(harness, "bad")
        first, second = await read_released(harness)

        assert await settle_released(harness, tenant, first.position) == 1
        assert await held_keys(harness) == {(TOPIC, "k")}
        assert await settle_released(harness, tenant, second.position) == 1
        assert await held_keys(harness) == set()
        assert await settle_released(harness, tenant, first.position, second.position) == 0
        assert [(one.message.id, one.held) for one in await read_all(harness)] == [("new", False)]

    async def test_settling_with_a_stale_token_changes_nothing(self, harness: StoreHarness) -> None:
        """Another owner has taken over; the records are its to publish."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"))
        await park_first(harness, tenant)
        await release(harness, "bad")
        await harness.source.run(take_over(harness))

        (one,) = await read_released(harness)

        assert await settle_released(harness, tenant, one.position) == 0
        assert not await park_again(harness, tenant, one.position)
        assert await released_ids(harness) == ["bad"]

    async def test_only_wanted_slots_and_destinations_are_read(self, harness: StoreHarness) -> None:
        """Oldest first, up to the limit."""
        tenant = await take_all(harness)
        mine, other = keys_apart(2)
        await append(harness, make_record("m1", mine), make_record("m2", other), make_record("m3", None))
        for _ in range(3):
            await park_first(harness, tenant)
        for identity in ("m3", "m2", "m1"):
            await release(harness, identity)

        assert await released_ids(harness, limit=2) == ["m1", "m2"]
        assert await released_ids(harness, slots=[slot_of(mine)]) == ["m1"]
        assert await released_ids(harness, paused=[TOPIC]) == []

    async def test_a_released_record_that_is_refused_again_holds_its_key_again(self, harness: StoreHarness) -> None:
        """With all that is left of it."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad"), make_record("m1"))
        await park_first(harness, tenant)
        await put_rest_behind(harness, tenant)
        await release(harness, "bad")
        bad, _ = await read_released(harness)

        assert await park_again(harness, tenant, bad.position)

        assert await released_ids(harness) == []
        (found,) = await find(harness)
        assert (found.message.id, found.reason, found.behind) == ("bad", "refused again", 1)

    async def test_a_record_that_waits_for_its_destination_holds_its_key_and_may_go_on(
        self, harness: StoreHarness
    ) -> None:
        """It is tried again from where it is held; what follows in its key goes behind it."""
        tenant = await take_all(harness)
        await append(harness, make_record("early"), make_record("m1"), make_record("keyless", None))
        early, _, keyless = await read_all(harness)
        asides = [Aside(position=early.position), Aside(position=keyless.position)]

        moved = await harness.source.run(harness.slots.put_aside(tenant.scope, tenant.tokens, asides))
        await put_rest_behind(harness, tenant)

        assert moved == {early.position, keyless.position}
        assert await released_ids(harness) == ["early", "m1", "keyless"]
        assert await counts(harness) == (3, 0, 0)

    async def test_released_records_are_transferred_to_the_queues_of_the_database(self, harness: StoreHarness) -> None:
        """Where the outbox's broker was replaced by the database itself."""
        tenant = await take_all(harness)
        await append(harness, make_record("bad", destination="queue:orders"))
        await park_first(harness, tenant)
        await release(harness, "bad")
        moving = harness.transfer.transfer_released(tenant.scope, tenant.tokens, slots=EVERY_SLOT, paused=(), limit=10)

        assert (await harness.source.run(moving)).moved == 1

        assert await released_ids(harness) == []
        assert await held_keys(harness) == set()


async def park_first(harness: StoreHarness, tenant: Tenant) -> None:
    """Park the oldest pending record."""
    assert await park(harness, tenant, (await read_all(harness))[0].position)


async def put_rest_behind(harness: StoreHarness, tenant: Tenant) -> None:
    """Put every record that is marked held behind the parked one."""
    await put_behind(harness, tenant, *(one.position for one in await read_all(harness) if one.held))


async def read_released(
    harness: StoreHarness, *, slots: Sequence[int] = EVERY_SLOT, paused: Sequence[str] = (), limit: int = 100
) -> Sequence[PendingRecord]:
    """Read what may go on, as a relay does."""
    return await harness.source.run_single(harness.held_records.read(slots=slots, paused=paused, limit=limit))


async def released_ids(
    harness: StoreHarness, *, slots: Sequence[int] = EVERY_SLOT, paused: Sequence[str] = (), limit: int = 100
) -> list[str]:
    """Return the ids of what may go on, oldest first."""
    return [one.message.id for one in await read_released(harness, slots=slots, paused=paused, limit=limit)]


async def settle_released(harness: StoreHarness, tenant: Tenant, *positions: int) -> int:
    """Settle released records."""
    return await harness.source.run(harness.held_records.settle(tenant.scope, tenant.tokens, positions))


async def park_again(harness: StoreHarness, tenant: Tenant, position: int) -> bool:
    """Park a released record once more."""
    program = harness.held_records.park(tenant.scope, tenant.tokens, position, reason="refused again")
    return await harness.source.run(program)


async def held_keys(harness: StoreHarness) -> frozenset[tuple[str, str]]:
    """Return the keys that are held."""
    return await harness.source.run_single(harness.held_records.holds())


async def find(harness: StoreHarness, *, after: int = 0, limit: int = 100) -> tuple[ParkedRecord, ...]:
    """List what is parked."""
    return tuple(await harness.source.run(harness.parked.find(after=after, limit=limit)))


async def release(harness: StoreHarness, identity: str) -> int | None:
    """Release a parked record in a committed transaction."""
    return await harness.source.run(harness.parked.release(identity))


async def skip(harness: StoreHarness, identity: str) -> int | None:
    """Give a parked record up in a committed transaction."""
    return await harness.source.run(harness.parked.skip(identity, by="ann", because=WHY))
