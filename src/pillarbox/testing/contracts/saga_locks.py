"""The rules of semantic locks: one owner at a time, for a while, and free when the owner says so."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from pillarbox.saga.locks import LockHolder, Taken
from pillarbox.saga.store import SagaKey
from pillarbox.testing.contracts.harness import (
    LONG,
    SHORT,
    StoreHarness,
    let_expire,
    needs_concurrent_writers,
    rolled_back,
)

MINE, OTHERS = SagaKey("shop/fulfil", "o-1"), SagaKey("shop/return", "o-1")
ROOM = "room:1"


async def take(
    harness: StoreHarness, owner: SagaKey = MINE, resource: str = ROOM, *, expires_after: timedelta = LONG
) -> Taken:
    """Ask for a lock in a committed transaction."""
    return await harness.source.run(harness.saga_locks.take(owner, resource, expires_after=expires_after))


async def holder(harness: StoreHarness, resource: str = ROOM) -> LockHolder | None:
    """Ask who holds a lock."""
    return await harness.source.run_single(harness.saga_locks.holder(resource))


class SagaLockStoreContract:
    """What every ``SagaLockStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_free_lock_is_taken_and_another_s_is_not(self, harness: StoreHarness) -> None:
        """Who asks is told whose it is."""
        assert await take(harness) == Taken(holder=None, was_held=False)
        refused = await take(harness, OTHERS)

        assert refused.holder is not None
        assert (refused.holder.saga, refused.holder.saga_id) == MINE
        assert LONG / 2 < refused.holder.expires_in <= LONG
        assert await take(harness, OTHERS, "Room:1") == Taken(holder=None, was_held=False)

    async def test_a_refusal_leaves_nothing_behind(self, harness: StoreHarness) -> None:
        """The owner keeps its lock as it was."""
        await take(harness)
        await take(harness, OTHERS, expires_after=2 * LONG)

        found = await holder(harness)

        assert found is not None
        assert found.saga == MINE.saga
        assert found.expires_in <= LONG

    async def test_its_owner_takes_a_lock_again_and_prolongs_it(self, harness: StoreHarness) -> None:
        """It is told that it was held all the time."""
        await take(harness)

        again = await take(harness, expires_after=3 * LONG)

        assert again == Taken(holder=None, was_held=True)
        found = await holder(harness)
        assert found is not None
        assert found.expires_in > 2 * LONG

    async def test_a_lock_whose_time_is_over_is_anybody_s(self, harness: StoreHarness) -> None:
        """Its late owner is refused then, as long as another has it."""
        await take(harness, expires_after=SHORT)
        await let_expire(harness)

        nobody = await holder(harness)
        taken = await take(harness, OTHERS)
        refused = await take(harness)

        assert nobody is None
        assert taken == Taken(holder=None, was_held=False)
        assert refused.holder is not None
        assert refused.holder.saga == OTHERS.saga

    async def test_a_late_owner_learns_whether_somebody_was_in_between(self, harness: StoreHarness) -> None:
        """Of nobody else's it was held; of one that another has had it was not, also when that has let it go."""
        await take(harness, expires_after=SHORT)
        await let_expire(harness)
        alone = await take(harness, expires_after=SHORT)
        await let_expire(harness)
        await take(harness, OTHERS)
        await harness.source.run(harness.saga_locks.release([OTHERS]))

        after = await take(harness)

        assert alone == Taken(holder=None, was_held=True)
        assert after == Taken(holder=None, was_held=False)

    async def test_release_frees_all_locks_of_owners_and_nobody_else_s(self, harness: StoreHarness) -> None:
        """An owner is its definition and id together."""
        third = SagaKey("shop/fulfil", "o-2")
        await take(harness)
        await take(harness, MINE, "room:2")
        await take(harness, third, "room:3")
        await take(harness, OTHERS, "room:4")

        await harness.source.run(harness.saga_locks.release([MINE, third]))
        await harness.source.run(harness.saga_locks.release([]))

        assert [await holder(harness, f"room:{number}") for number in (1, 2, 3)] == [None] * 3
        assert await holder(harness, "room:4") is not None

    async def test_a_lock_whose_transaction_is_rolled_back_was_not_taken(self, harness: StoreHarness) -> None:
        """Nor was it let go."""
        async with rolled_back(harness) as tx:
            await tx.run(harness.saga_locks.take(MINE, ROOM, expires_after=LONG))
        free = await holder(harness)
        await take(harness)
        async with rolled_back(harness) as tx:
            await tx.run(harness.saga_locks.release([MINE]))

        assert free is None
        assert await holder(harness) is not None

    async def test_of_many_who_ask_at_once_one_takes_it(self, harness: StoreHarness) -> None:
        """The others are told of that one."""
        told: list[Taken] = []

        async def ask(number: int) -> None:
            told.append(await take(harness, SagaKey("shop/fulfil", f"o-{number}")))

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(ask(number))

        found = await holder(harness)
        assert found is not None
        refusals = [one.holder.saga_id for one in told if one.holder is not None]
        assert refusals == [found.saga_id] * 7

    async def test_who_is_just_taking_a_lock_is_waited_for(self, harness: StoreHarness) -> None:
        """Until its commit nobody knows who will have it."""
        needs_concurrent_writers(harness)
        told: list[Taken] = []

        async def ask() -> None:
            told.append(await take(harness, OTHERS))

        async with asyncio.TaskGroup() as group, harness.source.begin() as tx:
            await tx.run(harness.saga_locks.take(MINE, ROOM, expires_after=LONG))
            group.create_task(ask())
            assert await holder(harness) is None

        assert [one.holder is not None for one in told] == [True]

    async def test_owners_and_resources_of_any_length_are_told_apart(self, harness: StoreHarness) -> None:
        """Their identity is whole, whatever the columns hold."""
        long, longer = SagaKey("shop/" + "f" * 150, "ü" * 250), SagaKey("shop/" + "f" * 150, "ü" * 249 + "u")
        await take(harness, long)

        refused = await take(harness, longer)
        await harness.source.run(harness.saga_locks.release([longer]))

        assert refused.holder is not None
        assert refused.holder.saga == long.saga
        assert await holder(harness) is not None
        assert (await take(harness, long)).was_held
