"""The rules of the database as a channel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pillarbox.channel import QueuedMessage, Subscription
from pillarbox.message import Message
from pillarbox.testing.contracts.harness import (
    EVERY_SLOT,
    TOPIC,
    StoreHarness,
    Tenant,
    keys_apart,
    make_message,
    needs_concurrent_writers,
    rolled_back,
    slot_of,
    take_all,
    take_over,
    take_stale,
)
from pillarbox.testing.waiting import assert_blocked

SCOPE = "queue:shop/one"
ONE = Subscription(consumer="shop/one", channels=(TOPIC,))
TWO = Subscription(consumer="shop/two", channels=(TOPIC,))
PAYMENTS = Subscription(consumer="shop/one", channels=("queue:payments",))


class QueueStoreContract:
    """What every ``QueueStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_message_waits_for_each_subscriber(self, harness: StoreHarness) -> None:
        """Publish-subscribe: each gets its own copy, as it was sent."""
        await subscribe(harness, ONE, TWO)

        assert await enqueue(harness, make_message("m1")) == set()

        assert [one.message for one in await read(harness, ONE)] == [make_message("m1")]
        assert [one.message for one in await read(harness, TWO)] == [make_message("m1")]

    async def test_subscribing_twice_is_subscribing_once(self, harness: StoreHarness) -> None:
        """Every instance of a consumer does it at its start."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(subscribe(harness, ONE))
        await enqueue(harness, make_message("m1"))

        assert len(await read(harness, ONE)) == 1

    async def test_a_topic_nobody_subscribes_to_is_named_and_nothing_is_stored(self, harness: StoreHarness) -> None:
        """The others of the same call are stored."""
        await subscribe(harness, ONE)

        unheard = await enqueue(harness, make_message("deaf", destination="topic:deaf"), make_message("heard"))

        assert unheard == {"topic:deaf"}
        assert await ids(harness, ONE) == ["heard"]
        late = Subscription(consumer="shop/late", channels=("topic:deaf",))
        await subscribe(harness, late)
        assert await ids(harness, late) == []

    async def test_a_queue_keeps_its_messages_for_a_consumer_to_come(self, harness: StoreHarness) -> None:
        """Point-to-point: stored once, with or without a consumer."""
        assert await enqueue(harness, make_message("m1", destination="queue:payments")) == set()

        await subscribe(harness, PAYMENTS)

        assert await ids(harness, PAYMENTS) == ["m1"]

    async def test_reading_topics_or_one_queue_is_a_single_statement(self, harness: StoreHarness) -> None:
        """Receivers poll with it."""
        topics = Subscription(consumer="shop/one", channels=(TOPIC, "topic:stock"))
        await subscribe(harness, topics)
        await enqueue(harness, make_message("m1"), make_message("m2", destination="queue:payments"))

        for subscription, expected in ((topics, "m1"), (PAYMENTS, "m2")):
            reading = harness.queue.read(subscription, slots=EVERY_SLOT, leave_out=(), limit=9)
            (found,) = await harness.source.run_single(reading)
            assert found.message.id == expected

    async def test_no_channel_starves_another(self, harness: StoreHarness) -> None:
        """What waits longest comes first, whatever its channel."""
        both = Subscription(consumer="shop/one", channels=(TOPIC, "queue:payments"))
        await subscribe(harness, both)
        await enqueue(harness, make_message("waiting", destination="queue:payments"))
        await enqueue(harness, *(make_message(f"m{number}") for number in range(20)))

        assert (await read(harness, both, limit=5))[0].message.id == "waiting"

    async def test_messages_come_in_the_order_they_were_stored(self, harness: StoreHarness) -> None:
        """Over all channels of the consumer, up to the limit."""
        both = Subscription(consumer="shop/one", channels=(TOPIC, "queue:payments"))
        await subscribe(harness, both)
        sent = [
            make_message(f"m{number}", f"k{number % 3}", destination=TOPIC if number % 2 else "queue:payments")
            for number in range(20)
        ]
        await enqueue(harness, *sent[:11])
        await enqueue(harness, *sent[11:])

        found = await read(harness, both, limit=15)

        assert [one.message for one in found] == sent[:15]
        assert [one.position for one in found] == sorted({one.position for one in found})

    async def test_only_the_channels_of_the_subscription_are_read(self, harness: StoreHarness) -> None:
        """Channels whose names differ in case are different."""
        shouted = Subscription(consumer="shop/ONE", channels=("topic:ORDER", "queue:PAYMENTS"))
        await subscribe(harness, ONE, PAYMENTS, shouted)
        await enqueue(harness, make_message("m1"), make_message("m2", destination="queue:payments"))

        assert (await ids(harness, ONE), await ids(harness, PAYMENTS)) == (["m1"], ["m2"])
        assert await ids(harness, shouted) == []

    async def test_only_wanted_slots_and_positions_are_read(self, harness: StoreHarness) -> None:
        """The others belong to another instance, or are under way."""
        await subscribe(harness, ONE)
        mine, other = keys_apart(2)
        await enqueue(
            harness,
            make_message("m1", mine),
            make_message("m2", other),
            make_message("m3", mine),
            make_message("m4", mine),
        )
        under_way = [one.position for one in await read(harness, ONE) if one.message.id == "m3"]

        found = await read(harness, ONE, slots=[slot_of(mine)], leave_out=under_way)

        assert [one.message.id for one in found] == ["m1", "m4"]
        assert await read(harness, ONE, slots=[]) == ()

    async def test_messages_of_a_key_share_a_slot(self, harness: StoreHarness) -> None:
        """So that one instance gets them all."""
        await subscribe(harness, ONE)
        await enqueue(harness, *(make_message(f"m{number}", f"k{number % 5}") for number in range(25)))

        slots: dict[str | None, set[int]] = {}
        for one in await read(harness, ONE):
            slots.setdefault(one.message.key, set()).add(one.slot)

        assert [len(used) for used in slots.values()] == [1] * 5

    async def test_a_late_commit_behind_accepted_positions_is_read(self, harness: StoreHarness) -> None:
        """Readers keep no cursor."""
        needs_concurrent_writers(harness)
        await subscribe(harness, ONE)
        tenant = await take_all(harness, SCOPE)
        async with harness.source.begin() as tx:
            await tx.run(harness.queue.enqueue([make_message("late", "a")]))
            await enqueue(harness, make_message("quick", "b"))
            (quick,) = await read(harness, ONE)
            assert await accept(harness, tenant, quick.position) == 1

        (late,) = await read(harness, ONE)

        assert late.message.id == "late"
        assert late.position < quick.position

    async def test_an_accepted_message_is_gone_for_this_consumer_only(self, harness: StoreHarness) -> None:
        """Each accepts its own copy, and only once."""
        await subscribe(harness, ONE, TWO)
        tenant = await take_all(harness, SCOPE)
        await enqueue(harness, make_message("m1"), make_message("m2"))
        first = (await read(harness, ONE))[0].position

        assert await accept(harness, tenant, first) == 1
        assert await accept(harness, tenant, first) == 0
        assert (await ids(harness, ONE), await ids(harness, TWO)) == (["m2"], ["m1", "m2"])

    async def test_accepting_is_part_of_the_transaction(self, harness: StoreHarness) -> None:
        """Rolled back, the message waits again."""
        await subscribe(harness, ONE)
        tenant = await take_all(harness, SCOPE)
        await enqueue(harness, make_message("m1"))
        position = (await read(harness, ONE))[0].position

        async with rolled_back(harness) as tx:
            assert await tx.run(harness.queue.accept(SCOPE, tenant.tokens, [position])) == 1

        assert await ids(harness, ONE) == ["m1"]

    async def test_accepting_with_a_stale_token_changes_nothing(self, harness: StoreHarness) -> None:
        """Another instance handles the message; whoever gets 0 rolls its effect back."""
        await subscribe(harness, ONE)
        stale = await take_stale(harness, SCOPE)
        await enqueue(harness, make_message("m1"))

        assert await accept(harness, stale, (await read(harness, ONE))[0].position) == 0
        assert await ids(harness, ONE) == ["m1"]

    async def test_accepting_with_another_scope_s_token_changes_nothing(self, harness: StoreHarness) -> None:
        """Each consumer leases its own slots."""
        await subscribe(harness, ONE)
        tenant = await take_all(harness, "queue:shop/two")
        await enqueue(harness, make_message("m1"))
        misdirected = Tenant(scope=SCOPE, tokens=tenant.tokens)

        assert await accept(harness, misdirected, (await read(harness, ONE))[0].position) == 0

    async def test_accepting_waits_for_a_takeover_and_then_changes_nothing(self, harness: StoreHarness) -> None:
        """The lease is looked at under its lock."""
        await subscribe(harness, ONE)
        tenant = await take_all(harness, SCOPE)
        await enqueue(harness, make_message("m1"))
        position = (await read(harness, ONE))[0].position

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            await tx.run(take_over(harness, SCOPE))
            accepting = tasks.create_task(accept(harness, tenant, position))
            await assert_blocked(accepting)

        assert accepting.result() == 0

    async def test_a_takeover_waits_for_an_accepting_transaction(self, harness: StoreHarness) -> None:
        """The new owner does not read what is about to be gone."""
        await subscribe(harness, ONE)
        tenant = await take_all(harness, SCOPE)
        await enqueue(harness, make_message("m1"))
        position = (await read(harness, ONE))[0].position

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            assert await tx.run(harness.queue.accept(SCOPE, tenant.tokens, [position])) == 1
            await assert_blocked(tasks.create_task(harness.source.run(take_over(harness, SCOPE))))

        assert await ids(harness, ONE) == []

    async def test_a_rolled_back_message_is_never_read(self, harness: StoreHarness) -> None:
        """Storing is part of the transaction."""
        await subscribe(harness, ONE)
        async with rolled_back(harness) as tx:
            await tx.run(harness.queue.enqueue([make_message("ghost")]))

        assert await ids(harness, ONE) == []

    async def test_storing_nothing_is_harmless(self, harness: StoreHarness) -> None:
        """An empty list is a list."""
        assert await enqueue(harness) == set()


async def subscribe(harness: StoreHarness, *subscriptions: Subscription) -> None:
    """Give consumers their places."""
    for one in subscriptions:
        await harness.source.run(harness.queue.subscribe(one))


async def enqueue(harness: StoreHarness, *messages: Message) -> set[str]:
    """Store messages in one committed transaction; return the topics nobody hears."""
    return set(await harness.source.run(harness.queue.enqueue(messages)))


async def read(
    harness: StoreHarness,
    subscription: Subscription,
    *,
    slots: Sequence[int] = EVERY_SLOT,
    leave_out: Sequence[int] = (),
    limit: int = 1000,
) -> tuple[QueuedMessage, ...]:
    """Read as a receiver does."""
    reading = harness.queue.read(subscription, slots=slots, leave_out=leave_out, limit=limit)
    return tuple(await harness.source.run(reading))


async def ids(harness: StoreHarness, subscription: Subscription) -> list[str]:
    """Return the ids of what waits for a consumer."""
    return [one.message.id for one in await read(harness, subscription)]


async def accept(harness: StoreHarness, tenant: Tenant, *positions: int) -> int:
    """Accept messages in a committed transaction."""
    return await harness.source.run(harness.queue.accept(tenant.scope, tenant.tokens, positions))
