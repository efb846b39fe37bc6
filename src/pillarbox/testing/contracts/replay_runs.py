"""The rules of replay runs: a frozen set, each letter once, and an outcome for each."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pillarbox.deadletter import DeadLetterFilter, DeadLetterState, GroupFilter, ReplayRun, RunState
from pillarbox.deadletter.runs import MAX_REPLAYS, ItemState, ReplayRunStore, ReplayTerms, RunElsewhere
from pillarbox.errors import ConflictError
from pillarbox.holding import HeldMessage, HeldState, Hold, HoldState
from pillarbox.testing.contracts.dead_letters import CONSUMER, burial, bury, find, move
from pillarbox.testing.contracts.harness import LONG, StoreHarness, let_expire, make_message, rolled_back
from pillarbox.testing.waiting import assert_blocked
from pillarbox.transaction import Program

DEAD = DeadLetterFilter()
OTHER = "shop/other"
TERMS = ReplayTerms(rate=200, canary=5, stop_at=0.25, within=LONG)
EVERYTHING = DeadLetterFilter(
    type="order.placed",
    consumer=CONSUMER,
    group="cause-1",
    key="k",
    reason="exhausted",
    since=datetime(2020, 1, 1, tzinfo=UTC),
    until=datetime(2999, 1, 1, tzinfo=UTC),
    text="unf",
)


class ReplayRunStoreContract:
    """What every ``ReplayRunStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_run_is_kept_with_its_terms(self, harness: StoreHarness) -> None:
        """And with what its letters were chosen by."""
        await bury(harness, burial(make_message("m1")))
        assert await create(harness, "r1", EVERYTHING, TERMS) == 1

        run = await get(harness, "r1")

        assert (run.id, run.state, run.wanted, run.terms, run.by) == ("r1", RunState.OPEN, EVERYTHING, TERMS, "ann")
        assert run.created_at is not None
        assert (run.ended_at, run.ended_because) == (None, "")
        assert await harness.source.run(harness.operators.runs.get("r2")) is None

    async def test_the_set_is_frozen_when_the_run_is_made(self, harness: StoreHarness) -> None:
        """What dies later is not in it."""
        await bury_many(harness, 3)
        await create(harness, "r1")
        await bury(harness, burial(make_message("late")))

        assert await enqueue(harness, "r1", at_most=100) == 3
        assert [letter.message.id for letter in await find(harness)] == ["late"]

    async def test_a_run_that_is_rolled_back_was_never_made(self, harness: StoreHarness) -> None:
        """With all of its letters."""
        await bury_many(harness, 2)
        async with rolled_back(harness) as tx:
            await tx.run(harness.operators.runs.create("r1", DEAD, TERMS, by="ann"))

        assert await create(harness, "r1") == 2

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
        """And waits then, so that letters become due in their order."""
        await bury_many(harness, 4)
        await create(harness, "r1")
        runs = harness.operators.runs

        async def second(after: int) -> None:
            async with harness.source.begin() as tx:
                taken = await tx.run(runs.take("r1", after=after, at_most=2))
                assert taken is not None
                await tx.run(runs.enqueue(taken))

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            taken = await tx.run(runs.take("r1", after=0, at_most=2))
            assert taken is not None
            behind = tasks.create_task(second(taken.last))
            await assert_blocked(behind)
            await tx.run(runs.enqueue(taken))

        assert sorted(await drained(harness)) == ["m0", "m1", "m2", "m3"]
        assert await enqueue(harness, "r1") == 0

    async def test_a_batch_is_refused_when_the_one_before_it_did_not_come_about(self, harness: StoreHarness) -> None:
        """Its letters are not to overtake those."""
        await bury_many(harness, 4)
        await create(harness, "r1")
        runs = harness.operators.runs
        async with rolled_back(harness) as tx:
            first = await tx.run(runs.take("r1", after=0, at_most=2))
            assert first is not None

        with pytest.raises(RunElsewhere):
            await harness.source.run(runs.take("r1", after=first.last, at_most=2))

        assert len(await find(harness)) == 4

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

    async def test_outcomes_are_noted(self, harness: StoreHarness) -> None:
        """Resolved, failed again, under way, not dead any more when its turn came."""
        await bury_many(harness, 5)
        await create(harness, "r1")
        letters = await find(harness)
        await move(harness, letters[4].id, DeadLetterState.DISCARDED)
        assert await enqueue(harness, "r1", at_most=4) == 4
        await harness.source.run(harness.dead_letters.resolve(CONSUMER, ["m0"]))
        await bury(harness, burial(make_message("m1")))
        assert await enqueue(harness, "r1", at_most=4) == 1
        assert await enqueue(harness, "r1", at_most=4) == 0

        run = await get(harness, "r1")

        assert dict(run.items) == {
            ItemState.RESOLVED: 1,
            ItemState.FAILED: 1,
            ItemState.ENQUEUED: 2,
            ItemState.PASSED: 1,
        }
        assert run.total == 5

    async def test_what_somebody_else_replayed_after_it_failed_has_failed_for_the_run(
        self, harness: StoreHarness
    ) -> None:
        """Whatever becomes of it then."""
        await bury_many(harness, 1)
        await create(harness, "r1")
        await enqueue(harness, "r1")
        await bury(harness, burial(make_message("m0")))
        (letter,) = await find(harness)
        await move(harness, letter.id, DeadLetterState.REPLAYING)
        await harness.source.run(harness.dead_letters.resolve(CONSUMER, ["m0"]))

        assert dict((await get(harness, "r1")).items) == {ItemState.FAILED: 1}

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

    async def test_a_survey_tells_what_a_run_would_replay(self, harness: StoreHarness) -> None:
        """And what it would pass by: what was replayed too often, or failed too long ago."""
        await bury_many(harness, 3)
        (letter, *_) = await find(harness)
        for _ in range(MAX_REPLAYS):
            await move(harness, letter.id, DeadLetterState.REPLAYING)
            await bury(harness, burial(make_message("m0")))
        await bury(harness, burial(make_message("m9")), consumer=OTHER)
        await let_expire(harness)

        async def survey(terms: ReplayTerms, where: DeadLetterFilter) -> tuple[int, int]:
            items = await harness.source.run(harness.operators.runs.survey(where, terms))
            return items[ItemState.PENDING], items[ItemState.PASSED]

        ours = DeadLetterFilter(consumer=CONSUMER)
        assert await survey(ReplayTerms(), ours) == (2, 1)
        assert await survey(ReplayTerms(within=LONG), DEAD) == (3, 1)
        assert await survey(ReplayTerms(within=timedelta(0)), ours) == (0, 3)
        assert await survey(ReplayTerms(within=timedelta(0), force=True), ours) == (3, 0)
        assert await survey(ReplayTerms(), DeadLetterFilter(consumer="shop/nobody")) == (0, 0)

    async def test_a_run_ends_once_and_goes_no_further(self, harness: StoreHarness) -> None:
        """What is pending stays dead."""
        await bury_many(harness, 3)
        await create(harness, "r1")
        await enqueue(harness, "r1", at_most=1)

        assert await end(harness, "r1", RunState.CANCELLED)
        assert not await end(harness, "r1", RunState.FINISHED)
        assert await enqueue(harness, "r1") == 0

        run = await get(harness, "r1")
        assert (run.state, run.ended_because) == (RunState.CANCELLED, "enough")
        assert run.ended_at is not None
        assert len(await find(harness)) == 2

    async def test_runs_are_found_by_their_state_the_latest_first(self, harness: StoreHarness) -> None:
        """A limited number of them."""
        for name in ("r1", "r2", "r3"):
            await create(harness, name)
        await end(harness, "r2", RunState.STOPPED)

        async def names(state: RunState | None, limit: int = 9) -> list[str]:
            return list(await harness.source.run(harness.operators.runs.find(state, limit=limit)))

        assert await names(None) == ["r3", "r2", "r1"]
        assert await names(RunState.OPEN) == ["r3", "r1"]
        assert await names(None, limit=1) == ["r3"]

    async def test_enqueued_letters_leave_the_counts_of_their_groups(self, harness: StoreHarness) -> None:
        """They are dead no more."""
        await bury_many(harness, 4)
        await create(harness, "r1")
        await enqueue(harness, "r1", at_most=3)

        (group,) = await harness.source.run(harness.operators.review.groups(GroupFilter(), limit=9))
        assert (group.arrivals, group.dead) == (4, 1)


async def bury_many(harness: StoreHarness, count: int) -> None:
    """Bury messages ``m0``, ``m1`` and so on, each of a key of its own."""
    messages = [make_message(f"m{number}", f"k{number}") for number in range(count)]
    await bury(harness, *map(burial, messages))


async def create(
    harness: StoreHarness, run_id: str, where: DeadLetterFilter = DEAD, terms: ReplayTerms | None = None
) -> int:
    """Make a run of all dead letters, or of those that match."""
    creating = harness.operators.runs.create(run_id, where, terms or ReplayTerms(), by="ann")
    return await harness.source.run(creating)


async def get(harness: StoreHarness, run_id: str) -> ReplayRun:
    """Return a run that is there."""
    run = await harness.source.run(harness.operators.runs.get(run_id))
    assert run is not None
    return run


async def enqueue(harness: StoreHarness, run_id: str, *, at_most: int = 100) -> int:
    """Enqueue one batch; return how many letters have had their turn."""
    return await harness.source.run(make_due(harness.operators.runs, run_id, at_most=at_most))


def make_due(runs: ReplayRunStore, run_id: str, *, at_most: int) -> Program[int]:
    """Take one batch and enqueue it."""
    run = yield from runs.get(run_id)
    if run is None or (taken := (yield from runs.take(run_id, after=run.reached, at_most=at_most))) is None:
        return 0
    yield from runs.enqueue(taken)
    return taken.count


async def enqueue_all(harness: StoreHarness, run_id: str, *, at_most: int) -> None:
    """Enqueue batch after batch, again where the database asks for it."""
    done = 1
    while done:
        try:
            done = await enqueue(harness, run_id, at_most=at_most)
        except (ConflictError, RunElsewhere):
            continue


async def end(harness: StoreHarness, run_id: str, state: RunState) -> bool:
    """Close a run."""
    return await harness.source.run(harness.operators.runs.end(run_id, state=state, because="enough"))


async def drained(harness: StoreHarness) -> list[str]:
    """Return the ids of what is due, by key and in order."""
    await harness.source.run(harness.held_queue.lease_due(CONSUMER, token="t", limit=100, ttl=LONG))
    heads = await harness.source.run(harness.held_queue.heads(CONSUMER, token="t", per_key=100))
    return [one.message.id for one in heads]
