"""The rules of the shortcut where the database is the broker: fan-out and settlement in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pillarbox.channel import Subscription
from pillarbox.relay.reader import Aside, Transferred
from pillarbox.testing.contracts.harness import (
    EVERY_SLOT,
    TOPIC,
    StoreHarness,
    Tenant,
    append,
    keys_apart,
    make_message,
    make_record,
    needs_concurrent_writers,
    read_all,
    read_ids,
    rolled_back,
    run_in_steps,
    slot_of,
    take_all,
    take_over,
    take_stale,
)
from pillarbox.testing.waiting import BLOCKED_S, assert_blocked


async def subscribe(harness: StoreHarness, consumer: str, *channels: str) -> Subscription:
    """Give ``consumer`` its places."""
    subscription = Subscription(consumer=consumer, channels=channels or (TOPIC,))
    await harness.source.run(harness.queue.subscribe(subscription))
    return subscription


async def queued_ids(harness: StoreHarness, subscription: Subscription) -> list[str]:
    """Return the ids of what waits for a consumer, oldest first."""
    reading = harness.queue.read(subscription, slots=EVERY_SLOT, leave_out=(), limit=10_000)
    return [one.message.id for one in await harness.source.run_single(reading)]


async def transfer(
    harness: StoreHarness,
    tenant: Tenant,
    *,
    slots: Sequence[int] = EVERY_SLOT,
    paused: Sequence[str] = (),
    limit: int = 1000,
) -> Transferred:
    """Run one transfer."""
    return await harness.source.run(
        harness.transfer.transfer(tenant.scope, tenant.tokens, slots=slots, paused=paused, limit=limit)
    )


class TransferContract:
    """What every ``OutboxTransfer`` keeps."""

    pytestmark = pytest.mark.asyncio

    async def test_a_transferred_record_has_left_the_outbox_for_the_queue(self, harness: StoreHarness) -> None:
        """As the same message, in the same slot."""
        tenant, subscription = await take_all(harness), await subscribe(harness, "shop/one")
        await append(harness, make_record("m1"))

        done = await transfer(harness, tenant)

        assert (done.moved, tuple(done.not_ready), done.full) == (1, (), False)
        assert await read_ids(harness) == []
        reading = harness.queue.read(subscription, slots=EVERY_SLOT, leave_out=(), limit=10)
        (queued,) = await harness.source.run_single(reading)
        assert (queued.message, queued.slot) == (make_message("m1"), make_record("m1").slot)

    async def test_every_consumer_gets_every_record_in_order(self, harness: StoreHarness) -> None:
        """Fan-out keeps the order of the outbox for each of them."""
        tenant = await take_all(harness)
        consumers = [await subscribe(harness, f"shop/{name}") for name in ("a", "b", "c")]
        ids = [f"m{number}" for number in range(40)]
        await append(harness, *(make_record(identity, f"k{number % 7}") for number, identity in enumerate(ids)))

        await transfer(harness, tenant, limit=25)
        await transfer(harness, tenant, limit=25)

        assert [await queued_ids(harness, consumer) for consumer in consumers] == [ids, ids, ids]

    async def test_a_queue_s_record_is_stored_once_without_anybody_listening(self, harness: StoreHarness) -> None:
        """A queue keeps its messages for a consumer that is to come."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1", destination="queue:payments"))

        done = await transfer(harness, tenant)

        assert (done.moved, tuple(done.not_ready)) == (1, ())
        assert await queued_ids(harness, await subscribe(harness, "shop/late", "queue:payments")) == ["m1"]

    async def test_records_of_a_topic_nobody_listens_to_stay_and_are_named(self, harness: StoreHarness) -> None:
        """They wait in the outbox, in order, for the first consumer."""
        tenant, heard = await take_all(harness), await subscribe(harness, "shop/one", "topic:heard")
        for number in range(3):
            await append(harness, make_record(f"deaf-{number}", destination="topic:deaf"))
            await append(harness, make_record(f"heard-{number}", destination="topic:heard"))

        done = await transfer(harness, tenant)

        assert (done.moved, list(done.not_ready)) == (3, ["topic:deaf"])
        assert await queued_ids(harness, heard) == ["heard-0", "heard-1", "heard-2"]
        assert await read_ids(harness) == ["deaf-0", "deaf-1", "deaf-2"]

        late = await subscribe(harness, "shop/late", "topic:deaf")
        assert (await transfer(harness, tenant)).moved == 3
        assert await queued_ids(harness, late) == ["deaf-0", "deaf-1", "deaf-2"]

    async def test_a_transfer_leaves_paused_destinations_and_other_slots(self, harness: StoreHarness) -> None:
        """It takes what it was asked for."""
        tenant = await take_all(harness)
        mine, other = keys_apart(2)
        subscription = await subscribe(harness, "shop/one", TOPIC, "topic:paused")
        await append(harness, make_record("paused", mine, destination="topic:paused"), make_record("other", other))
        await append(harness, make_record("mine", mine))

        done = await transfer(harness, tenant, slots=[slot_of(mine)], paused=["topic:paused"])

        assert done.moved == 1
        assert await queued_ids(harness, subscription) == ["mine"]
        assert await read_ids(harness) == ["paused", "other"]

    async def test_a_transfer_leaves_records_of_held_keys(self, harness: StoreHarness) -> None:
        """Nothing overtakes a parked record of its key."""
        tenant, subscription = await take_all(harness), await subscribe(harness, "shop/one")
        await append(harness, make_record("parked"), make_record("behind"), make_record("free", "other"))
        position = (await read_all(harness))[0].position
        aside = Aside(position=position, refused="refused")
        await harness.source.run(harness.slots.put_aside(tenant.scope, tenant.tokens, [aside]))

        assert (await transfer(harness, tenant)).moved == 1
        assert await queued_ids(harness, subscription) == ["free"]
        assert await read_ids(harness) == ["behind"]

    async def test_a_full_transfer_says_that_there_may_be_more(self, harness: StoreHarness) -> None:
        """So that the relay comes back at once."""
        tenant = await take_all(harness)
        await subscribe(harness, "shop/one")
        await append(harness, *(make_record(f"m{number}") for number in range(5)))

        done = [await transfer(harness, tenant, limit=2) for _ in range(4)]

        assert [(one.moved, one.full) for one in done] == [(2, True), (2, True), (1, False), (0, False)]

    async def test_a_transfer_with_a_stale_token_moves_nothing(self, harness: StoreHarness) -> None:
        """The new owner moves the records; twice would be a duplicate."""
        stale, subscription = await take_stale(harness), await subscribe(harness, "shop/one")
        await append(harness, make_record("m1"))

        assert (await transfer(harness, stale)).moved == 0
        assert (await queued_ids(harness, subscription), await read_ids(harness)) == ([], ["m1"])

    async def test_a_transfer_waits_for_a_takeover_and_then_moves_nothing(self, harness: StoreHarness) -> None:
        """The lease is looked at under its lock."""
        tenant, subscription = await take_all(harness), await subscribe(harness, "shop/one")
        await append(harness, make_record("m1"))

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            await tx.run(take_over(harness))
            moving = tasks.create_task(transfer(harness, tenant))
            await assert_blocked(moving)

        assert moving.result().moved == 0
        assert (await queued_ids(harness, subscription), await read_ids(harness)) == ([], ["m1"])

    async def test_a_takeover_waits_for_a_transfer_to_end(self, harness: StoreHarness) -> None:
        """The slots do not change hands between the fan-out and its commit."""
        tenant, subscription = await take_all(harness), await subscribe(harness, "shop/one")
        await append(harness, make_record("m1"))

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            moving = harness.transfer.transfer(tenant.scope, tenant.tokens, slots=EVERY_SLOT, paused=(), limit=10)
            assert (await tx.run(moving)).moved == 1
            await assert_blocked(tasks.create_task(harness.source.run(take_over(harness))))

        assert await queued_ids(harness, subscription) == ["m1"]

    @pytest.mark.parametrize("statements", [1, 2])
    async def test_a_record_whose_last_consumer_is_retired_meanwhile_goes_to_nobody_else(
        self, harness: StoreHarness, statements: int
    ) -> None:
        """It stays, or it was moved before; under the topic's own name nobody would look for it."""
        needs_concurrent_writers(harness)
        tenant, last = await take_all(harness), await subscribe(harness, "shop/last")
        await harness.source.run(harness.consumers.enlist("shop", [last]))
        await append(harness, make_record("m1"))
        retiring: list[asyncio.Task[None]] = []
        seen: list[None] = []

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:

            async def retire() -> None:
                seen.append(None)
                if len(seen) == statements:
                    program = harness.consumers.retire(last.consumer)
                    retiring.append(tasks.create_task(harness.source.run(program)))
                    await asyncio.wait(retiring, timeout=BLOCKED_S)

            moving = harness.transfer.transfer(tenant.scope, tenant.tokens, slots=EVERY_SLOT, paused=(), limit=10)
            done = await run_in_steps(tx, moving, between=retire)

        assert await queued_ids(harness, Subscription(consumer=TOPIC, channels=(TOPIC,))) == []
        assert await read_ids(harness) == (["m1"] if done.moved == 0 else [])

    async def test_a_rolled_back_transfer_moved_nothing(self, harness: StoreHarness) -> None:
        """Fan-out and settlement are one."""
        tenant, subscription = await take_all(harness), await subscribe(harness, "shop/one")
        await append(harness, make_record("m1"))
        moving = harness.transfer.transfer(tenant.scope, tenant.tokens, slots=EVERY_SLOT, paused=(), limit=10)

        async with rolled_back(harness) as tx:
            await tx.run(moving)

        assert (await queued_ids(harness, subscription), await read_ids(harness)) == ([], ["m1"])

    async def test_what_is_committed_during_a_transfer_is_not_lost(self, harness: StoreHarness) -> None:
        """Records and subscribers that appear between any two of its statements."""
        needs_concurrent_writers(harness)
        tenant, first = await take_all(harness), await subscribe(harness, "shop/first", "topic:heard")
        await append(harness, make_record("heard-0", destination="topic:heard"))
        await append(harness, make_record("deaf-0", destination="topic:deaf"))
        rounds: list[int] = []

        async def meddle() -> None:
            rounds.append(len(rounds) + 1)
            await append(harness, make_record(f"heard-{rounds[-1]}", destination="topic:heard"))
            await append(harness, make_record(f"deaf-{rounds[-1]}", destination="topic:deaf"))
            if len(rounds) == 1:  # to subscribe once more may wait for the transfer
                await subscribe(harness, "shop/second", "topic:deaf")

        async with harness.source.begin() as tx:
            moving = harness.transfer.transfer(tenant.scope, tenant.tokens, slots=EVERY_SLOT, paused=(), limit=10)
            done = await run_in_steps(tx, moving, between=meddle)
        await transfer(harness, tenant)

        second = Subscription(consumer="shop/second", channels=("topic:deaf",))
        assert done.moved >= 1
        assert await queued_ids(harness, first) == [f"heard-{number}" for number in range(len(rounds) + 1)]
        assert await queued_ids(harness, second) == [f"deaf-{number}" for number in range(len(rounds) + 1)]
        assert await read_ids(harness) == []
