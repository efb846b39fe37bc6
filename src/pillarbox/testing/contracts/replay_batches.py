"""The rules of a run's batches: letters become due in their order, each once, while batches overlap."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from pillarbox.deadletter import DeadLetterFilter, DeadLetterState, GroupFilter, RunState
from pillarbox.deadletter.batches import RunElsewhere
from pillarbox.deadletter.runs import MAX_REPLAYS, ItemState, ReplayTerms
from pillarbox.holding import HeldMessage, HeldState, Hold, HoldState
from pillarbox.testing.contracts.dead_letters import CONSUMER, burial, bury, find, move
from pillarbox.testing.contracts.harness import LONG, StoreHarness, let_expire, make_message, rolled_back
from pillarbox.testing.contracts.replaying import bury_many, create, enqueue, enqueue_all, get
from pillarbox.testing.waiting import assert_blocked

OTHER = "shop/other"


class ReplayBatchRules:
    """What every ``ReplayBatchStore`` keeps; a part of the contract of runs."""

    pytestmark = pytest.mark.asyncio

    async def test_letters_are_made_due_in_their_order_each_at_the_head_of_its_key(self, harness: StoreHarness) -> None:
        """Before what is behind it; a late duplicate of it makes way."""
        await bury(harness, burial(make_message("m1", "a")), burial(make_message("m2", "b")))
        blocked = [Hold(hold_key=key, state=HoldState.BLOCKED) for key in ("k:a", "k:b")]
        await harness.source.run(harness.holding.hold(CONSUMER, blocked))
        behind = [("m3", "a"), ("m1", "a"), ("m4", "b")]
        waiting = [
            HeldMessage(hold_key=f"k:{key}", message=make_message(one, key), state=HeldState.HELD)
            for one, key in behind
        ]
        await harness.source.run(harness.holding.append(CONSUMER, waiting))

        await create(harness, "r1")
        assert await enqueue(harness, "r1", at_most=100) == 2

        assert await drained(harness) == ["m1", "m3", "m2", "m4"]
        assert {letter.replays for letter in await find(harness, DeadLetterFilter(state=None))} == {1}

    async def test_a_late_duplicate_that_is_being_put_aside_makes_way_too(self, harness: StoreHarness) -> None:
        """Else the letter would be said to be replayed and nothing would ever come of it."""
        await bury(harness, *(burial(make_message(one, "a")) for one in ("m1", "m2", "m3")))
        await harness.source.run(harness.holding.hold(CONSUMER, [Hold(hold_key="k:a", state=HoldState.BLOCKED)]))
        await create(harness, "r1")
        copy = HeldMessage(hold_key="k:a", message=make_message("m2", "a"), state=HeldState.HELD)

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            assert await tx.run(harness.holding.held_among(CONSUMER, ["k:a"]))
            await tx.run(harness.holding.append(CONSUMER, [copy]))
            enqueuing = tasks.create_task(enqueue(harness, "r1"))
            await assert_blocked(enqueuing)

        assert enqueuing.result() == 3
        await harness.source.run(harness.held_queue.lease_due(CONSUMER, token="t", limit=9, ttl=LONG))
        heads = await harness.source.run(harness.held_queue.heads(CONSUMER, token="t", per_key=9))
        assert [(one.message.id, one.state) for one in heads] == [
            (one, HeldState.REPLAYING) for one in ("m1", "m2", "m3")
        ]

    async def test_a_batch_takes_its_letters_while_the_one_before_is_enqueued(self, harness: StoreHarness) -> None:
        """And waits then, so that letters become due in their order; here all of them have one key."""
        await bury(harness, *(burial(make_message(f"m{number}", "a")) for number in range(4)))
        await create(harness, "r1")
        batches, has_taken = harness.batches, asyncio.Event()

        async def second(after: int) -> None:
            async with harness.source.begin() as tx:
                taken = await tx.run(batches.take("r1", after=after, at_most=2))
                assert taken is not None
                has_taken.set()
                await tx.run(batches.hold(taken))
                await tx.run(batches.enqueue(taken))

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            taken = await tx.run(batches.take("r1", after=0, at_most=2))
            assert taken is not None
            await tx.run(batches.hold(taken))
            behind = tasks.create_task(second(taken.last))
            if harness.concurrent_writers:
                await has_taken.wait()
            await assert_blocked(behind)
            await tx.run(batches.enqueue(taken))

        assert await drained(harness) == ["m0", "m1", "m2", "m3"]
        assert await enqueue(harness, "r1") == 0

    async def test_a_batch_with_other_keys_waits_for_the_one_before_too(self, harness: StoreHarness) -> None:
        """So that a run always stands where all the letters before are due."""
        await bury_many(harness, 2)
        await create(harness, "r1")
        batches = harness.batches

        async def second(after: int) -> None:
            async with harness.source.begin() as tx:
                taken = await tx.run(batches.take("r1", after=after, at_most=1))
                assert taken is not None
                await tx.run(batches.hold(taken))

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            taken = await tx.run(batches.take("r1", after=0, at_most=1))
            assert taken is not None
            await tx.run(batches.hold(taken))
            behind = tasks.create_task(second(taken.last))
            await assert_blocked(behind)
            await tx.run(batches.enqueue(taken))

    async def test_a_batch_is_refused_when_the_one_before_it_did_not_come_about(self, harness: StoreHarness) -> None:
        """Its letters are not to overtake those."""
        await bury_many(harness, 4)
        await create(harness, "r1")
        batches = harness.batches
        async with rolled_back(harness) as tx:
            first = await tx.run(batches.take("r1", after=0, at_most=2))
            assert first is not None
            await tx.run(batches.hold(first))

        async with rolled_back(harness) as tx:
            second = await tx.run(batches.take("r1", after=first.last, at_most=2))
            assert second is not None
            with pytest.raises(RunElsewhere):
                await tx.run(batches.hold(second))

        assert len(await find(harness)) == 4
        assert (await harness.source.run(harness.holding.state(CONSUMER))).keys == 0

    async def test_a_batch_is_refused_when_the_run_is_cancelled_meanwhile(self, harness: StoreHarness) -> None:
        """Its letters stay dead."""
        await bury_many(harness, 2)
        await create(harness, "r1")

        async def take_what_there_is() -> int:
            with suppress(RunElsewhere):
                return await enqueue(harness, "r1")
            return 0

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            assert await tx.run(harness.operators.runs.end("r1", state=RunState.CANCELLED, because="enough"))
            taking = tasks.create_task(take_what_there_is())
            await assert_blocked(taking)

        assert taking.result() == 0
        assert len(await find(harness)) == 2

    async def test_a_letter_is_enqueued_as_its_bytes(self, harness: StoreHarness) -> None:
        """Without attempts: it is handled as if it came for the first time."""
        message = make_message("m1", body=bytes(range(256)))
        await bury(harness, burial(message))
        await create(harness, "r1")
        await enqueue(harness, "r1")

        await harness.source.run(harness.held_queue.lease_due(CONSUMER, token="t", limit=9, ttl=LONG))
        (head,) = await harness.source.run(harness.held_queue.heads(CONSUMER, token="t", per_key=9))
        assert head == HeldMessage(hold_key="k:k", message=message, state=HeldState.REPLAYING)

    async def test_letters_without_a_key_and_of_several_consumers_are_enqueued_too(self, harness: StoreHarness) -> None:
        """Each for its own consumer only."""
        own = replace(burial(make_message("m1", None)), hold_key="m:m1")
        await bury(harness, own)
        await bury(harness, own, consumer=OTHER)
        await create(harness, "r1", DeadLetterFilter(consumer=OTHER))
        await enqueue(harness, "r1")

        assert (await harness.source.run(harness.holding.state(OTHER))).messages == 1
        assert (await harness.source.run(harness.holding.state(CONSUMER))).messages == 0

    async def test_of_two_runs_of_the_same_letters_one_replays_each(self, harness: StoreHarness) -> None:
        """Also where the first replay failed: the second operator has not seen that failure."""
        await bury_many(harness, 20)
        await create(harness, "r1")
        await create(harness, "r2")

        async with asyncio.TaskGroup() as tasks:
            for run_id in ("r1", "r2", "r1", "r2"):
                tasks.create_task(enqueue_all(harness, run_id, at_most=3))
        await bury(harness, *(burial(make_message(f"m{number}")) for number in range(20)))
        await enqueue_all(harness, "r1", at_most=3)
        await enqueue_all(harness, "r2", at_most=3)

        assert {letter.replays for letter in await find(harness)} == {1}
        first, second = await get(harness, "r1"), await get(harness, "r2")
        assert first.count(ItemState.FAILED) + second.count(ItemState.FAILED) == 20
        assert first.count(ItemState.PASSED) + second.count(ItemState.PASSED) == 20

    async def test_a_letter_that_was_replayed_too_often_is_replayed_by_force_only(self, harness: StoreHarness) -> None:
        """Loops end."""
        await bury_many(harness, 1)
        (letter,) = await find(harness)
        for _ in range(MAX_REPLAYS):
            await move(harness, letter.id, DeadLetterState.REPLAYING)
            await bury(harness, burial(make_message("m0")))
        await create(harness, "r1")
        await create(harness, "r2", terms=ReplayTerms(force=True))

        await enqueue(harness, "r1")
        await enqueue(harness, "r2")

        assert dict((await get(harness, "r1")).items) == {ItemState.PASSED: 1}
        assert dict((await get(harness, "r2")).items) == {ItemState.ENQUEUED: 1}

    async def test_a_letter_that_failed_too_long_ago_is_replayed_by_force_only(self, harness: StoreHarness) -> None:
        """What it did meanwhile may be forgotten."""
        await bury_many(harness, 2)
        await create(harness, "r1", terms=ReplayTerms(within=timedelta(0)))
        await create(harness, "r2", terms=ReplayTerms(within=timedelta(0), force=True))
        await let_expire(harness)

        await enqueue(harness, "r1")
        await enqueue(harness, "r2")

        assert dict((await get(harness, "r1")).items) == {ItemState.PASSED: 2}
        assert dict((await get(harness, "r2")).items) == {ItemState.ENQUEUED: 2}

    async def test_enqueued_letters_leave_the_counts_of_their_groups(self, harness: StoreHarness) -> None:
        """They are dead no more."""
        await bury_many(harness, 4)
        await create(harness, "r1")
        await enqueue(harness, "r1", at_most=3)

        (group,) = await harness.source.run(harness.operators.review.groups(GroupFilter(), limit=9))
        assert (group.arrivals, group.dead) == (4, 1)


async def drained(harness: StoreHarness) -> list[str]:
    """Return the ids of what is due, by key and in order."""
    await harness.source.run(harness.held_queue.lease_due(CONSUMER, token="t", limit=100, ttl=LONG))
    heads = await harness.source.run(harness.held_queue.heads(CONSUMER, token="t", per_key=100))
    return [one.message.id for one in heads]
