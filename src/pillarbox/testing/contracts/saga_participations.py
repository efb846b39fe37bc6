"""The rules of what a service remembers of steps that it does for sagas of others."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from pillarbox.saga.journal import Direction
from pillarbox.saga.participant import Participation
from pillarbox.testing.contracts.harness import ANY_AGE, LONG, StoreHarness, let_expire, rolled_back

ASKED = Participation(undone=False, answers={})


async def enter(harness: StoreHarness, *requests: str, service: str = "stock") -> dict[str, Participation]:
    """Enter in a committed transaction."""
    return dict(await harness.source.run(harness.participations.enter(service, requests)))


class ParticipationStoreContract:
    """What every ``ParticipationStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_request_that_nobody_knows_is_asked_for_first(self, harness: StoreHarness) -> None:
        """However often it is entered, and however it is spelled."""
        assert await enter(harness, "r-1", "R-1") == {"r-1": ASKED, "R-1": ASKED}
        assert await enter(harness, "r-1") == {"r-1": ASKED}

    async def test_what_was_answered_is_kept_by_direction(self, harness: StoreHarness) -> None:
        """Of each request for itself."""
        await enter(harness, "r-1", "r-2", "r-3")
        store = harness.participations
        await harness.source.run(store.answered("stock", Direction.DO, {"r-1": "döne 1", "r-2": "done 2"}))
        await harness.source.run(store.answered("stock", Direction.UNDO, {"r-1": "undone 1"}))

        found = await enter(harness, "r-1", "r-2", "r-3")

        assert found["r-1"].answers == {Direction.DO: "döne 1", Direction.UNDO: "undone 1"}
        assert found["r-2"].answers == {Direction.DO: "done 2"}
        assert found["r-3"] == ASKED

    async def test_a_tombstone_stays(self, harness: StoreHarness) -> None:
        """Beside the answer to what was done before, and of nobody else."""
        await enter(harness, "r-1", "r-2")
        await harness.source.run(harness.participations.answered("stock", Direction.DO, {"r-1": "done"}))
        await harness.source.run(harness.participations.bury("stock", ["r-1", "unknown"]))

        found = await enter(harness, "r-1", "r-2", "unknown")

        assert found["r-1"] == Participation(undone=True, answers={Direction.DO: "done"})
        assert found["r-2"] == found["unknown"] == ASKED

    async def test_a_request_is_one_service_s(self, harness: StoreHarness) -> None:
        """Two services may share a database."""
        await enter(harness, "r-1")
        await enter(harness, "r-1", service="ship")
        await harness.source.run(harness.participations.bury("ship", ["r-1"]))

        assert (await enter(harness, "r-1"))["r-1"].undone is False
        assert (await enter(harness, "r-1", service="ship"))["r-1"].undone is True

    async def test_what_is_rolled_back_was_not_entered(self, harness: StoreHarness) -> None:
        """Nor buried: it is part of the run's transaction."""
        await enter(harness, "r-1")
        async with rolled_back(harness) as tx:
            await tx.run(harness.participations.enter("stock", ["r-1"]))
            await tx.run(harness.participations.bury("stock", ["r-1"]))

        assert await enter(harness, "r-1") == {"r-1": ASKED}

    async def test_of_two_who_enter_at_once_one_waits(self, harness: StoreHarness) -> None:
        """It sees what the other one has written: a do and its undo never run side by side."""
        seen: list[bool] = []

        async def undo() -> None:
            async with harness.source.begin() as tx:
                found = await tx.run(harness.participations.enter("stock", ["r-2", "r-1"]))
                seen.append(found["r-1"].undone)
                await tx.run(harness.participations.bury("stock", ["r-1"]))

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(undo())

        assert sorted(seen) == [False, True, True, True]

    async def test_what_was_touched_long_ago_is_purged(self, harness: StoreHarness) -> None:
        """No more than was asked for at a time."""
        await enter(harness, "r-1", "r-2", "r-3")
        young = await self._purge(harness, LONG)
        await let_expire(harness)

        purged = [await self._purge(harness, ANY_AGE, limit=2) for _ in range(3)]

        assert (young, purged) == (0, [2, 1, 0])

    async def _purge(self, harness: StoreHarness, older_than: timedelta, *, limit: int = 100) -> int:
        return await harness.source.run(harness.participations.purge(older_than, limit=limit))
