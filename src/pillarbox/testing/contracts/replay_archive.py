"""The rules of replay runs that are looked back on: found by their letters, and kept for as long as one of these is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pytest

from pillarbox.deadletter import DeadLetterFilter, DeadLetterState, RunState
from pillarbox.deadletter.runs import MAX_REPLAYS, ItemState
from pillarbox.testing.contracts.dead_letters import CONSUMER, burial, bury, find, move
from pillarbox.testing.contracts.harness import LONG, StoreHarness, let_expire, make_message
from pillarbox.testing.contracts.replaying import bury_many, create, end, enqueue, enqueue_all, get

NOW = timedelta(0)


class ReplayArchiveContract:
    """What every ``ReplayArchive`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_the_runs_that_replayed_a_letter_are_found_in_their_order(self, harness: StoreHarness) -> None:
        """Whatever came of it; not those that passed it by, or have not come to it."""
        await bury_many(harness, 3)
        one, two, three = [letter.id for letter in await find(harness)]
        await create(harness, "rb")
        await enqueue(harness, "rb", at_most=2)
        await bury(harness, burial(make_message("m0", "k0")))
        await create(harness, "ra", DeadLetterFilter(key="k0"))
        await create(harness, "rc", DeadLetterFilter(key="k0"))
        await enqueue(harness, "ra")
        await enqueue(harness, "rc")

        assert dict((await get(harness, "rc")).items) == {ItemState.PASSED: 1}
        assert await having(harness, one) == ["rb", "ra"]
        assert await having(harness, two) == ["rb"]
        assert await having(harness, three) == await having(harness, three + 1) == []

    async def test_what_failed_again_and_was_discarded_then_has_failed_for_the_run(self, harness: StoreHarness) -> None:
        """Also where it is purged, or what was resolved is, before anybody has looked at the run."""
        await bury_many(harness, 6)
        await create(harness, "r1")
        await create(harness, "r2", DeadLetterFilter(key="k5"))
        assert await enqueue(harness, "r1", at_most=5) == 5
        await harness.source.run(harness.dead_letters.resolve(CONSUMER, ["m0"]))
        await bury(harness, *(burial(make_message(f"m{number}", f"k{number}")) for number in (1, 2, 3)))
        for letter in (await find(harness))[:3]:
            await move(harness, letter.id, DeadLetterState.DISCARDED)
        assert (await get(harness, "r1")).count(ItemState.FAILED) == 3
        await bury(harness, burial(make_message("m4", "k4")))
        for letter in await find(harness):
            await move(harness, letter.id, DeadLetterState.DISCARDED)
        await let_expire(harness)

        purged = await harness.source.run(harness.operators.review.purge(NOW, limit=100))

        assert purged == 6
        for run_id in ("r1", "r2"):
            await enqueue_all(harness, run_id, at_most=9)
        assert dict((await get(harness, "r1")).items) == {
            ItemState.RESOLVED: 1,
            ItemState.FAILED: 4,
            ItemState.PASSED: 1,
        }
        assert dict((await get(harness, "r2")).items) == {ItemState.PASSED: 1}

    async def test_a_run_is_over_when_it_has_ended_and_none_of_its_letters_is_kept(self, harness: StoreHarness) -> None:
        """And that is longer ago; one that is open never is."""
        await bury_many(harness, 2)
        await create(harness, "r1")
        await create(harness, "open", DeadLetterFilter(key="nobody"))
        await enqueue(harness, "r1")
        await harness.source.run(harness.dead_letters.resolve(CONSUMER, ["m0"]))
        await bury(harness, burial(make_message("m1", "k1")))
        await end(harness, "r1", RunState.FINISHED)
        await let_expire(harness)

        assert await purge(harness) == 1
        assert await over(harness, NOW) == []
        (dead,) = await find(harness)
        await move(harness, dead.id, DeadLetterState.DISCARDED)
        await let_expire(harness)
        assert await over(harness, NOW) == []
        assert await purge(harness) == 1

        assert await over(harness, LONG) == []
        assert await over(harness, NOW) == ["r1"]

    async def test_runs_that_are_over_are_found_the_first_to_end_first(self, harness: StoreHarness) -> None:
        """A limited number of them."""
        for name in ("r3", "r1", "r2"):
            await create(harness, name)
            await end(harness, name, RunState.CANCELLED)
            await let_expire(harness)

        assert await over(harness, NOW) == ["r3", "r1", "r2"]
        assert await over(harness, NOW, limit=2) == ["r3", "r1"]

    async def test_a_run_is_removed_a_few_letters_at_a_time_and_they_are_counted(self, harness: StoreHarness) -> None:
        """The run goes with the last one; another run keeps its own."""
        await bury_many(harness, 5)
        (first, *_) = await find(harness)
        for _ in range(MAX_REPLAYS):
            await move(harness, first.id, DeadLetterState.REPLAYING)
            await bury(harness, burial(make_message("m0", "k0")))
        await create(harness, "r1")
        await create(harness, "r2")
        await enqueue(harness, "r1", at_most=3)
        await harness.source.run(harness.dead_letters.resolve(CONSUMER, ["m1"]))
        await end(harness, "r1", RunState.CANCELLED)

        removed = [await remove(harness, "r1", limit=2) for _ in range(4)]

        assert removed == [
            {ItemState.PASSED: 1, ItemState.ENQUEUED: 1},
            {ItemState.ENQUEUED: 1, ItemState.PENDING: 1},
            {ItemState.PENDING: 1},
            None,
        ]
        assert await harness.source.run(harness.operators.runs.get("r1")) is None
        assert (await get(harness, "r2")).total == 5

    async def test_an_open_run_is_not_removed(self, harness: StoreHarness) -> None:
        """Nor one that nobody knows."""
        await bury_many(harness, 1)
        await create(harness, "r1")

        assert await remove(harness, "r1", limit=9) is None
        assert await remove(harness, "r2", limit=9) is None
        assert (await get(harness, "r1")).total == 1


async def having(harness: StoreHarness, letter_id: int) -> list[str]:
    """Return the runs that have replayed a letter."""
    return list(await harness.source.run(harness.operators.archive.having(letter_id)))


async def over(harness: StoreHarness, older_than: timedelta, *, limit: int = 9) -> list[str]:
    """Return the runs that need not be kept."""
    return list(await harness.source.run(harness.operators.archive.over(older_than, limit=limit)))


async def remove(harness: StoreHarness, run_id: str, *, limit: int) -> Mapping[ItemState, int] | None:
    """Forget letters of a run."""
    removed = await harness.source.run(harness.operators.archive.remove(run_id, limit=limit))
    return None if removed is None else dict(removed)


async def purge(harness: StoreHarness) -> int:
    """Remove the letters that are decided about."""
    return await harness.source.run(harness.operators.review.purge(NOW, limit=100))
