"""The rules of taking over from another kind of relay: nothing is published twice, and nothing is lost."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pillarbox.outbox import KeptRecords
from pillarbox.relay import RelayKind
from pillarbox.testing.contracts.harness import (
    StoreHarness,
    Tenant,
    append,
    keys_apart,
    make_record,
    needs_concurrent_writers,
    read_all,
    read_ids,
    take_all,
    take_over,
)
from pillarbox.testing.contracts.published import now
from pillarbox.testing.contracts.sequence_reader import begin_walk, pending


class RelayMarksContract:
    """What every ``RelayMarks`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_where_nothing_was_left_nothing_is_changed(self, harness: StoreHarness) -> None:
        """It is the usual case."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1"))

        for kind in RelayKind:
            assert not await clear(harness, tenant, successor=kind)
        assert await read_ids(harness) == ["m1"]

    async def test_a_sequence_relay_begins_with_what_a_polling_relay_left(self, harness: StoreHarness) -> None:
        """What is in the outbox was not settled, so it is pending."""
        tenant = await take_all(harness)
        await append(harness, make_record("m1"), make_record("m2"))
        first, _ = await read_all(harness)
        assert await harness.source.run_single(harness.slots.settle(tenant.scope, tenant.tokens, [first.position])) == 1

        assert not await clear(harness, tenant, successor=RelayKind.SEQUENCE)

        assert await (await begin_walk(harness, tenant)).publish() == ["m2"]

    async def test_a_polling_relay_finds_only_what_the_cursor_did_not_pass(self, harness: StoreHarness) -> None:
        """Also in the middle of a window; batch by batch."""
        walk = await begin_walk(harness)
        await append(harness, *(make_record(f"m{number}") for number in range(6)))
        assert await walk.settle(await walk.read(limit=4))

        rounds = 1
        while await clear(harness, walk.tenant, successor=RelayKind.POLLING, limit=3):
            rounds += 1

        assert rounds == 2
        assert await read_ids(harness) == ["m4", "m5"]
        assert await pending(harness) == 2

    async def test_a_late_commit_below_the_cursor_stays_for_the_polling_relay(self, harness: StoreHarness) -> None:
        """It commits before the hand-over, between two of its batches, or after it."""
        needs_concurrent_writers(harness)
        walk = await begin_walk(harness)
        quick, *others = keys_apart(4)
        before, between, after = (harness.source.begin() for _ in range(3))
        openings = [await tx.__aenter__() for tx in (before, between, after)]
        for name, tx, key in zip(("before", "between", "after"), openings, others, strict=True):
            await tx.run(harness.outbox.append([make_record(name, key)]))
        await append(harness, make_record("m1", quick), make_record("m2", quick))
        assert await walk.publish() == ["m1", "m2"]

        await before.__aexit__(None, None, None)
        assert await clear(harness, walk.tenant, successor=RelayKind.POLLING, limit=1)
        await between.__aexit__(None, None, None)
        while await clear(harness, walk.tenant, successor=RelayKind.POLLING, limit=1):
            pass
        await after.__aexit__(None, None, None)

        assert await read_ids(harness) == ["before", "between", "after"]

    async def test_from_polling_to_sequence_and_back_nothing_is_twice_or_lost(self, harness: StoreHarness) -> None:
        """Each begins where the other stopped."""
        tenant = await take_all(harness)
        published: list[str] = []
        for turn in range(3):
            await append(harness, *(make_record(f"{turn}-{number}") for number in range(3)))
            assert not await clear(harness, tenant, successor=RelayKind.POLLING, limit=100)
            (first, *_) = await read_all(harness)
            published.append(first.message.id)
            await harness.source.run_single(harness.slots.settle(tenant.scope, tenant.tokens, [first.position]))
            assert not await clear(harness, tenant, successor=RelayKind.SEQUENCE)
            walk = await begin_walk(harness, tenant)
            found = await walk.read(limit=2)
            assert await walk.settle(found[:1])
            published.append(found[0].message.id)

        assert not await clear(harness, tenant, successor=RelayKind.POLLING, limit=100)
        rest = await read_ids(harness)
        assert sorted(published + rest) == [f"{turn}-{number}" for turn in range(3) for number in range(3)]

    async def test_a_sequence_relay_keeps_its_own_cursor(self, harness: StoreHarness) -> None:
        """It takes over from one of its kind."""
        walk = await begin_walk(harness)
        await append(harness, make_record("m1"), make_record("m2"))
        assert await walk.settle(await walk.read(limit=1))

        assert not await clear(harness, walk.tenant, successor=RelayKind.SEQUENCE)

        assert await (await begin_walk(harness, walk.tenant)).publish() == ["m2"]

    async def test_a_stale_token_clears_nothing(self, harness: StoreHarness) -> None:
        """Another owner works with the cursor."""
        walk = await begin_walk(harness)
        await append(harness, make_record("m1"))
        await walk.publish()
        await harness.source.run(take_over(harness))

        assert not await clear(harness, walk.tenant, successor=RelayKind.POLLING)

        assert await read_ids(harness) == ["m1"]
        assert await pending(harness) == 0

    async def test_what_was_passed_can_be_kept(self, harness: StoreHarness) -> None:
        """It leaves the outbox, and can still be republished."""
        walk = await begin_walk(harness)
        await append(harness, make_record("m1"), make_record("m2"))
        assert await walk.settle(await walk.read(limit=1))

        assert not await clear(harness, walk.tenant, successor=RelayKind.POLLING, keep=True)

        assert await read_ids(harness) == ["m2"]
        assert await harness.source.run(harness.published.is_any_kept())

    async def test_what_was_passed_is_kept_with_the_time_of_its_publishing(self, harness: StoreHarness) -> None:
        """By that time it is chosen to be republished, whenever the hand-over was."""
        walk = await begin_walk(harness)
        run, published = harness.source.run, harness.published
        before = await now(harness)
        await append(harness, make_record("m1"), make_record("m2"), make_record("m3"))
        assert await walk.settle(await walk.read(limit=2))
        await run(published.remember(every=timedelta(0)))
        after = await now(harness)
        assert await walk.settle(await walk.read(limit=1))

        while await clear(harness, walk.tenant, successor=RelayKind.POLLING, keep=True, limit=1):
            pass

        end = await now(harness)
        assert await run(published.count(KeptRecords(since=before, until=after))) == 2
        assert await run(published.count(KeptRecords(since=after, until=end))) == 1


async def clear(
    harness: StoreHarness, tenant: Tenant, *, successor: RelayKind, keep: bool = False, limit: int = 100
) -> bool:
    """Put one batch away of what other kinds of relay left."""
    program = harness.marks.clear(tenant.scope, tenant.tokens, successor=successor, keep=keep, limit=limit)
    return await harness.source.run(program)
