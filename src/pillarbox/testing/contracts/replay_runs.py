"""The rules of replay runs: a frozen set, each letter once, and an outcome for each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pillarbox.deadletter import DeadLetterFilter, DeadLetterState, RunState
from pillarbox.deadletter.runs import MAX_REPLAYS, ItemState, ReplayTerms
from pillarbox.testing.contracts.dead_letters import CONSUMER, burial, bury, find, move
from pillarbox.testing.contracts.harness import LONG, StoreHarness, let_expire, make_message, rolled_back
from pillarbox.testing.contracts.replay_batches import ReplayBatchRules
from pillarbox.testing.contracts.replaying import DEAD, bury_many, create, end, enqueue, get

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


class ReplayRunStoreContract(ReplayBatchRules):
    """What every ``ReplayRunStore`` and ``ReplayBatchStore`` keep; subclass it and supply the fixture ``harness``."""

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
