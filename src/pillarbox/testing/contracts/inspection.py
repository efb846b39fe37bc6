"""The rules of what operators ask of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from pillarbox.channel import Subscription
from pillarbox.control import HeldKey, KnownConsumer
from pillarbox.holding import HeldMessage, HeldState, Hold, HoldState
from pillarbox.idempotency.business_key import row_of
from pillarbox.testing.contracts.harness import ANY_AGE, TOPIC, StoreHarness, let_expire, make_message

LONG = timedelta(hours=1)
ONE, TWO = "shop/one", "shop/two"
PAYMENTS = "queue:payments"


class InspectionContract:
    """What every ``Inspection`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_an_empty_store_has_nothing_to_tell(self, harness: StoreHarness) -> None:
        """No rows, no ages."""
        assert await consumers(harness) == []
        assert await oldest_queued_for(harness) is None
        assert await held_keys(harness) == []
        assert await harness.source.run(harness.inspection.inbox(None)) == []

    async def test_what_is_queued_is_counted_for_each_subscriber(self, harness: StoreHarness) -> None:
        """A topic's message waits for both."""
        for name in (TWO, ONE):
            await harness.source.run(harness.queue.subscribe(Subscription(consumer=name, channels=(TOPIC,))))
        await harness.source.run(harness.queue.enqueue([make_message("m1"), make_message("m2")]))

        assert [(one.identity, one.queued, one.held) for one in await consumers(harness)] == [(ONE, 2, 0), (TWO, 2, 0)]

    async def test_a_queue_that_nobody_receives_from_is_told_of(self, harness: StoreHarness) -> None:
        """Its messages belong to no consumer yet."""
        await harness.source.run(harness.queue.enqueue([make_message("m1", destination=PAYMENTS)]))

        assert await consumers(harness) == [KnownConsumer(identity="", channels=(PAYMENTS,), queued=1, held=0)]

    async def test_the_age_of_the_oldest_queued_message_is_told(self, harness: StoreHarness) -> None:
        """By the database's clock."""
        await harness.source.run(harness.queue.enqueue([make_message("m1", destination=PAYMENTS)]))

        age = await oldest_queued_for(harness)

        assert age is not None
        assert timedelta(0) <= age < timedelta(minutes=1)

    async def test_held_keys_are_told_with_their_messages(self, harness: StoreHarness) -> None:
        """Longest held first; those of one consumer when it is named."""
        await hold(harness, ONE, "k:a", "m1", "m2")
        await hold(harness, ONE, "m:alone")
        await harness.source.run(harness.holding.hold(TWO, [Hold(hold_key="k:b", state=HoldState.BLOCKED)]))

        everything = await held_keys(harness)

        assert [(one.consumer, one.hold_key, one.state, one.messages) for one in everything] == [
            (ONE, "k:a", HoldState.WAITING, 2),
            (ONE, "m:alone", HoldState.WAITING, 0),
            (TWO, "k:b", HoldState.BLOCKED, 0),
        ]
        assert abs(everything[0].since - datetime.now(tz=UTC)) < timedelta(hours=1)
        assert [one.hold_key for one in await held_keys(harness, TWO)] == ["k:b"]
        assert [one.hold_key for one in await held_keys(harness, limit=1)] == ["k:a"]

    async def test_held_messages_are_counted_for_their_consumer(self, harness: StoreHarness) -> None:
        """Also when it has nothing queued."""
        await hold(harness, ONE, "k:a", "m1", "m2")

        assert [(one.identity, one.queued, one.held) for one in await consumers(harness)] == [(ONE, 0, 2)]

    async def test_the_processes_of_a_consumer_are_counted(self, harness: StoreHarness) -> None:
        """Those that live, and have not left."""
        run, registry = harness.source.run, harness.consumers
        await run(registry.enlist("shop", [Subscription(consumer=ONE, channels=(TOPIC,))]))
        for owner, ttl in (("p1", LONG), ("p2", LONG), ("p3", LONG), ("dead", -LONG)):
            await run(registry.attend({ONE: ("order.placed",)}, owner=owner, ttl=ttl))
        await run(registry.leave([ONE], owner="p3"))

        assert [(one.identity, one.processes) for one in await consumers(harness)] == [(ONE, 2)]

    async def test_the_inbox_is_counted_for_each_consumer(self, harness: StoreHarness) -> None:
        """With the time of its oldest id."""
        await harness.source.run(harness.inbox.record(ONE, ["m1", "m2"]))
        await harness.source.run(harness.inbox.record(TWO, ["m1"]))

        counts = await harness.source.run(harness.inspection.inbox(None))

        assert [(one.consumer, one.ids, one.business_keys) for one in counts] == [(ONE, 2, 0), (TWO, 1, 0)]
        assert [one.removable for one in counts] == [0, 0]
        assert abs(counts[0].oldest_at - datetime.now(tz=UTC)) < timedelta(hours=1)

    async def test_business_keys_are_counted_apart_from_ids(self, harness: StoreHarness) -> None:
        """They are rows of the same table."""
        await harness.source.run(harness.inbox.record(ONE, ["m1", "m2", row_of("order.placed", "o-1")]))

        (count,) = await harness.source.run(harness.inspection.inbox(None))

        assert (count.ids, count.business_keys) == (2, 1)

    async def test_what_a_purge_would_remove_is_counted(self, harness: StoreHarness) -> None:
        """Old enough, and not waiting in holding."""
        await harness.source.run(harness.inbox.record(ONE, ["m1", "m2", "m3"]))
        await hold(harness, ONE, "k:a", "m1")
        await let_expire(harness)

        (old,) = await harness.source.run(harness.inspection.inbox(ANY_AGE))
        (young,) = await harness.source.run(harness.inspection.inbox(timedelta(hours=1)))

        assert (old.removable, young.removable) == (2, 0)


async def consumers(harness: StoreHarness) -> list[KnownConsumer]:
    """List consumers."""
    return list(await harness.source.run(harness.inspection.consumers()))


async def oldest_queued_for(harness: StoreHarness) -> timedelta | None:
    """Ask for the age of the oldest queued message."""
    return await harness.source.run(harness.inspection.oldest_queued_for())


async def held_keys(harness: StoreHarness, consumer: str | None = None, *, limit: int = 100) -> Sequence[HeldKey]:
    """List holds."""
    return list(await harness.source.run(harness.inspection.held_keys(consumer, limit=limit)))


async def hold(harness: StoreHarness, consumer: str, hold_key: str, *identities: str) -> None:
    """Hold a key with messages behind it."""
    waiting = [
        HeldMessage(hold_key=hold_key, message=make_message(identity), state=HeldState.HELD) for identity in identities
    ]
    await harness.source.run(harness.holding.hold(consumer, [Hold(hold_key=hold_key)]))
    await harness.source.run(harness.holding.append(consumer, waiting))
