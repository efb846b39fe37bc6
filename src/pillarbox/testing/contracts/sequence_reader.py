"""The rules of an append-only outbox read by a cursor: nothing that commits late is lost, nothing is read twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from pillarbox.errors import LeaseLostError
from pillarbox.relay.reader import Aside, PendingRecord
from pillarbox.relay.sequence import Cursor, SequenceReader, Window
from pillarbox.testing.contracts.harness import (
    StoreHarness,
    Tenant,
    append,
    keys_apart,
    make_record,
    needs_concurrent_writers,
    rolled_back,
    take_all,
    take_over,
    take_stale,
)


class WindowsContract:
    """What reading by windows finds."""

    pytestmark = pytest.mark.asyncio

    async def test_records_come_in_the_order_of_their_positions_and_once(self, harness: StoreHarness) -> None:
        """Whatever the limit, and also what was there before the first cursor."""
        await append(harness, *(make_record(f"m{number}") for number in range(7)))
        walk = await begin_walk(harness)

        assert await walk.publish(limit=3) == [f"m{number}" for number in range(7)]
        await append(harness, make_record("m7"))
        assert await walk.publish(limit=3) == ["m7"]
        assert await walk.publish() == []

    async def test_an_empty_outbox_has_no_window(self, harness: StoreHarness) -> None:
        """There is nothing to read, and nothing to write."""
        walk = await begin_walk(harness)

        assert await walk.publish() == []
        assert await stored_cursor(walk) == walk.cursor

    async def test_a_late_commit_below_the_cursor_is_read(self, harness: StoreHarness) -> None:
        """It took its position early; a cursor of one position would lose it."""
        needs_concurrent_writers(harness)
        walk = await begin_walk(harness)
        slow, quick = keys_apart(2)
        async with harness.source.begin() as tx:
            await tx.run(harness.outbox.append([make_record("late", slow)]))
            await append(harness, make_record("quick", quick))
            assert await walk.publish() == ["quick"]

        assert await walk.publish() == ["late"]
        assert await walk.publish() == []

    async def test_what_commits_while_a_window_is_read_is_in_the_next_one(self, harness: StoreHarness) -> None:
        """It began before the window and is not seen by its end, whether its position is passed or not."""
        needs_concurrent_writers(harness)
        first, second, third = keys_apart(3)
        walk = await begin_walk(harness)
        async with harness.source.begin() as tx:
            await tx.run(harness.outbox.append([make_record("low", first)]))
            await append(harness, *(make_record(f"m{number}", second) for number in range(4)))
            one = await walk.read(limit=2)
            assert await walk.settle(one)
            await tx.run(harness.outbox.append([make_record("high", third)]))

        assert ids(one) == ["m0", "m1"]
        assert await walk.publish(limit=2) == ["m2", "m3", "low", "high"]

    async def test_a_transaction_older_than_many_windows_is_read_when_it_commits(self, harness: StoreHarness) -> None:
        """It is under way at the beginning and at the end of each of them."""
        needs_concurrent_writers(harness)
        old, *others = keys_apart(4)
        walk = await begin_walk(harness)
        async with harness.source.begin() as tx:
            await tx.run(harness.outbox.append([make_record("old-1", old)]))
            for number, key in enumerate(others):
                await append(harness, make_record(f"m{number}", key))
                assert await walk.publish() == [f"m{number}"]
            await tx.run(harness.outbox.append([make_record("old-2", old)]))

        await append(harness, make_record("m3", others[0]))
        assert await walk.publish(limit=1) == ["old-1", "old-2", "m3"]
        assert await walk.publish() == []

    async def test_what_was_rolled_back_is_never_read(self, harness: StoreHarness) -> None:
        """And it does not stop what committed meanwhile."""
        walk = await begin_walk(harness)
        async with rolled_back(harness) as tx:
            await tx.run(harness.outbox.append([make_record("never")]))
            if harness.concurrent_writers:
                await append(harness, make_record("beside", keys_apart(2)[1]))
        await append(harness, make_record("after"))

        assert await walk.publish() == (["beside"] if harness.concurrent_writers else []) + ["after"]

    async def test_records_of_savepoints_are_read_with_their_transaction(self, harness: StoreHarness) -> None:
        """One that was rolled back is not; the others are, also when their transaction is a late one."""
        first, second = keys_apart(2)
        walk = await begin_walk(harness)
        async with harness.source.begin() as tx:
            async with tx.connection.begin_nested():
                await tx.run(harness.outbox.append([make_record("kept-1", first)]))
            async with tx.connection.begin_nested() as savepoint:
                await tx.run(harness.outbox.append([make_record("undone", first)]))
                await savepoint.rollback()
            if harness.concurrent_writers:
                await append(harness, make_record("quick", second))
                assert await walk.publish() == ["quick"]
            async with tx.connection.begin_nested():
                await tx.run(harness.outbox.append([make_record("kept-2", first)]))

        assert await walk.publish() == ["kept-1", "kept-2"]

    async def test_a_transaction_of_many_records_is_read_in_several_batches(self, harness: StoreHarness) -> None:
        """A batch may end in the middle of it."""
        walk = await begin_walk(harness)
        await append(harness, *(make_record(f"m{number}") for number in range(5)))

        one = await walk.read(limit=2)
        assert await walk.settle(one)

        assert ids(one) == ["m0", "m1"]
        assert await walk.publish(limit=2) == ["m2", "m3", "m4"]

    async def test_a_restart_in_the_middle_of_a_window_goes_on_there(self, harness: StoreHarness) -> None:
        """What was settled is not read again; what was only read is; late commits of the window come later."""
        late, quick = keys_apart(2)
        walk = await begin_walk(harness)
        if harness.concurrent_writers:
            async with harness.source.begin() as tx:
                await tx.run(harness.outbox.append([make_record("late", late)]))
                await self._stop_in_the_middle(harness, walk, quick)
        else:
            await self._stop_in_the_middle(harness, walk, quick)

        again = await begin_walk(harness, walk.tenant)

        expected = ["m2", "m3", "m4"] + (["late"] if harness.concurrent_writers else [])
        assert await again.publish(limit=2) == expected

    async def _stop_in_the_middle(self, harness: StoreHarness, walk: SequenceWalk, key: str) -> None:
        await append(harness, *(make_record(f"m{number}", key) for number in range(5)))
        assert await walk.settle(await walk.read(limit=2))
        assert ids(await walk.read(limit=2)) == ["m2", "m3"]

    async def test_what_the_cursor_passed_is_not_pending(self, harness: StoreHarness) -> None:
        """It stays in the table, and is counted no more."""
        walk = await begin_walk(harness)
        await append(harness, *(make_record(f"m{number}") for number in range(5)))
        assert await walk.settle(await walk.read(limit=2))
        assert await pending(harness) == 3

        walk = await begin_walk(harness, walk.tenant)
        await walk.publish()

        assert await pending(harness) == 0
        await append(harness, make_record("m5"))
        assert await pending(harness) == 1


class CursorContract:
    """How the cursor moves."""

    pytestmark = pytest.mark.asyncio

    async def test_loading_makes_the_cursor_once(self, harness: StoreHarness) -> None:
        """It stands before everything."""
        await append(harness, make_record("m1"))
        walk = await begin_walk(harness)

        assert await stored_cursor(walk) == walk.cursor
        assert await pending(harness) == 1

    async def test_a_stale_token_loads_nothing_and_moves_nothing(self, harness: StoreHarness) -> None:
        """Another owner works now."""
        walk = await begin_walk(harness)
        await append(harness, make_record("m1"))
        found = await walk.read()
        await harness.source.run(take_over(harness))

        assert not await walk.settle(found)
        assert await pending(harness) == 1
        with pytest.raises(LeaseLostError):
            await harness.source.run(walk.reader.load(*walk.fence))

    async def test_a_stale_tenant_makes_no_cursor(self, harness: StoreHarness) -> None:
        """Not even the first one."""
        reader = needs_sequence(harness)
        stale = await take_stale(harness)

        with pytest.raises(LeaseLostError):
            await harness.source.run(reader.load(stale.scope, stale.tokens))

    async def test_a_cursor_that_has_moved_is_not_moved_again_from_where_it_was(self, harness: StoreHarness) -> None:
        """Compare and set: two that believe themselves owners do not undo each other's work."""
        walk = await begin_walk(harness)
        await append(harness, make_record("m1"), make_record("m2"))
        found = await walk.read()
        twin = await begin_walk(harness, walk.tenant)
        assert await walk.settle(found)
        read_again = await twin.read(limit=1)

        assert not await twin.settle(read_again)

        assert await stored_cursor(walk) == walk.cursor
        assert await pending(harness) == 0

    async def test_records_are_put_aside_together_with_the_move(self, harness: StoreHarness) -> None:
        """They leave the table and are not passed by, nor read again."""
        walk = await begin_walk(harness)
        bad, good = keys_apart(2)
        await append(harness, make_record("bad", bad), make_record("m1", good), make_record("behind", bad))
        found = await walk.read()
        asides = [
            Aside(position=found[0].position, refused="it is too large"),
            Aside(position=found[2].position, is_behind=True),
        ]

        assert await walk.settle(found, *asides)

        state = await harness.source.run(harness.outbox.state())
        assert (state.pending, state.parked, state.held) == (0, 1, 1)
        assert await walk.publish() == []
        assert await harness.source.run(harness.parked.release("bad")) == 2
        released = await harness.source.run_single(
            harness.held_records.read(slots=walk.tenant.slots, paused=(), limit=10)
        )
        assert ids(released) == ["bad", "behind"]

    async def test_a_move_that_is_refused_puts_nothing_aside(self, harness: StoreHarness) -> None:
        """Neither for a stale token nor for a stale cursor."""
        walk = await begin_walk(harness)
        await append(harness, make_record("m1"), make_record("m2"))
        (first, second) = await walk.read()
        twin = await begin_walk(harness, walk.tenant)
        await twin.read()
        assert await walk.settle([first])

        for stale in (twin, walk):
            assert not await stale.settle([first, second], Aside(position=second.position, refused="no"))
            state = await harness.source.run(harness.outbox.state())
            assert (state.pending, state.parked) == (1, 0)
            await harness.source.run(take_over(harness))


class SequenceReaderContract(WindowsContract, CursorContract):
    """What every ``SequenceReader`` keeps; subclass it and supply the fixture ``harness``."""


@dataclass(slots=True)
class SequenceWalk:
    """A sequence relay by hand: reads behind its cursor, window by window, and settles by moving it."""

    harness: StoreHarness
    reader: SequenceReader
    tenant: Tenant
    cursor: Cursor
    window: Window | None
    since: str
    after: int
    given: dict[int, Window] = field(default_factory=dict[int, Window])

    async def read(self, limit: int = 100) -> list[PendingRecord]:
        """Read what follows what was read."""
        source = self.harness.source
        while True:
            if self.window is None:
                self.window, self.after = await source.run_single(self.reader.following(self.since)), 0
            if self.window is None:
                return []
            window = self.window
            found = list(await source.run_single(self.reader.read(window, after=self.after, limit=limit)))
            if len(found) < limit:
                self.since, self.window = window.until, None
            if found:
                self.after = found[-1].position
                self.given.update((record.position, window) for record in found)
                return found

    async def settle(self, records: Sequence[PendingRecord], *asides: Aside) -> bool:
        """Move the cursor past ``records``; return whether it was moved."""
        last = records[-1].position
        new = Cursor(
            since=self.given[last].since,
            until=self.given[last].until,
            position=last,
            highest=max(self.cursor.highest, *(record.position for record in records)),
        )
        moving = self.reader.advance(*self.fence, old=self.cursor, new=new, asides=asides)
        try:
            moved = await self.harness.source.run(moving)
        except LeaseLostError:
            return False
        if moved:
            self.cursor = new
        return moved

    async def publish(self, limit: int = 100) -> list[str]:
        """Read and settle until nothing is left; return the ids in the order in which they were read."""
        published: list[str] = []
        while found := await self.read(limit):
            assert await self.settle(found)
            published += ids(found)
        return published

    @property
    def fence(self) -> tuple[str, Sequence[int]]:
        """The scope and the tokens of the slots."""
        return self.tenant.scope, self.tenant.tokens


async def begin_walk(harness: StoreHarness, tenant: Tenant | None = None) -> SequenceWalk:
    """Start where the stored cursor stands, as a relay does that has just been started."""
    reader = needs_sequence(harness)
    tenant = tenant or await take_all(harness)
    cursor = await harness.source.run(reader.load(tenant.scope, tenant.tokens))
    assert cursor is not None
    window = await harness.source.run(reader.reopen(cursor))
    return SequenceWalk(harness, reader, tenant, cursor, window, cursor.since, cursor.position)


def needs_sequence(harness: StoreHarness) -> SequenceReader:
    """Skip where a cursor would lose late commits."""
    if harness.sequence is None:
        pytest.skip("this store cannot be read by a cursor")
    return harness.sequence


async def stored_cursor(walk: SequenceWalk) -> Cursor | None:
    """Return the cursor as it is stored."""
    return await walk.harness.source.run(walk.reader.load(*walk.fence))


async def pending(harness: StoreHarness) -> int:
    """Count what is still to be published."""
    return (await harness.source.run(harness.outbox.state())).pending


def ids(records: Sequence[PendingRecord]) -> list[str]:
    """Return the ids of the records' messages."""
    return [record.message.id for record in records]
