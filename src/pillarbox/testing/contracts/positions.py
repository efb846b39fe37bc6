"""The rules of numbered lines at a consumer: positions, early messages, gaps, and what was skipped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import pytest

from pillarbox.consumer.positions import EarlyMessage, Gap, SkippedNumbers
from pillarbox.holding import HeldState, Hold, HoldState
from pillarbox.message import Number
from pillarbox.ordering import Missing, Position
from pillarbox.outbox.record import Line
from pillarbox.testing.contracts.draining import HISTORY
from pillarbox.testing.contracts.harness import (
    LONG,
    TOPIC,
    StoreHarness,
    make_message,
    needs_concurrent_writers,
    rolled_back,
)
from pillarbox.testing.contracts.held_messages import CONSUMER
from pillarbox.testing.waiting import assert_blocked
from pillarbox.transaction import Program

LINE: Line = (TOPIC, "k")
HOLD_KEY = "k:k"
EPOCH = 5
AT_ONCE = timedelta(0)


def early(number: int, *, key: str = "k", epoch: int = EPOCH, identity: str = "") -> EarlyMessage:
    """Return an early message."""
    message = make_message(identity or f"{key}{number}", key)
    return EarlyMessage(number=Number(epoch, number), hold_key=f"k:{key}", message=message)


def stand(harness: StoreHarness, last: int, *numbers: int, line: Line = LINE, admitted: int = 0) -> Program[None]:
    """Have a line stand at ``last``, with ``numbers`` waiting."""
    yield from harness.positions.lock(CONSUMER, {line: EPOCH})
    moved = Position(epoch=EPOCH, last=last, admitted=admitted)
    yield from harness.positions.move(CONSUMER, {line: moved})
    yield from harness.positions.put_early(CONSUMER, [early(number, key=line[1]) for number in numbers])


async def positions(harness: StoreHarness, *lines: Line) -> Mapping[Line, Position]:
    """Look at positions."""
    return await harness.source.run(harness.positions.lock(CONSUMER, dict.fromkeys(lines, EPOCH)))


async def count(harness: StoreHarness) -> int:
    """Count what waits, as the position says."""
    return (await positions(harness, LINE))[LINE].buffered


async def release(harness: StoreHarness, last: int, *, limit: int = 100) -> int:
    """Let go on what follows ``last``."""
    moved = {LINE: Position(epoch=EPOCH, last=last)}
    return await harness.source.run(harness.positions.release(CONSUMER, moved, limit=limit))


async def held(harness: StoreHarness) -> list[str]:
    """Lease what is held and return the ids, in order; nothing while it is blocked."""
    queue = harness.held_queue
    await harness.source.run(queue.lease_due(CONSUMER, token="t", limit=9, ttl=LONG))
    return [one.message.id for one in await harness.source.run(queue.heads(CONSUMER, token="t", per_key=1000))]


async def due(harness: StoreHarness, *, wait: timedelta = AT_ONCE, full_at: int = 100) -> list[Gap]:
    """Return the gaps that something is to be done about."""
    found = harness.gaps.due(CONSUMER, wait=wait, full_at=full_at, limit=10)
    return list(await harness.source.run(found))


class LinesContract:
    """What ``Positions`` keeps."""

    pytestmark = pytest.mark.asyncio

    async def test_a_new_line_has_nothing_handled(self, harness: StoreHarness) -> None:
        """It begins in the epoch given, and that is kept."""
        found = await harness.source.run(harness.positions.lock(CONSUMER, {LINE: 5, (TOPIC, "o"): 6}))

        assert found == {LINE: Position(epoch=5), (TOPIC, "o"): Position(epoch=6)}
        assert await positions(harness, LINE) == {LINE: Position(epoch=5)}

    async def test_positions_move(self, harness: StoreHarness) -> None:
        """All at once, each line for itself, byte by byte, and those of other consumers stay."""
        alike = [LINE, (TOPIC, "K"), (TOPIC, "k "), ("queue:pay", "k")]
        moved = {line: Position(epoch=EPOCH, last=at, admitted=at) for at, line in enumerate(alike)}

        def move() -> Program[None]:
            yield from harness.positions.lock("shop/other", dict.fromkeys(alike, EPOCH))
            yield from harness.positions.lock(CONSUMER, dict.fromkeys(alike, EPOCH))
            yield from harness.positions.move(CONSUMER, moved)

        await harness.source.run(move())

        assert await positions(harness, *alike) == moved
        others = await harness.source.run(harness.positions.lock("shop/other", {LINE: EPOCH}))
        assert others == {LINE: Position(epoch=EPOCH)}

    async def test_who_locks_the_same_line_waits(self, harness: StoreHarness) -> None:
        """Also for one that is about to begin it, and then sees where it stands."""
        needs_concurrent_writers(harness)
        async with asyncio.TaskGroup() as group, harness.source.begin() as tx:
            await tx.run(stand(harness, 3))
            second = group.create_task(positions(harness, LINE))
            await assert_blocked(second)

        assert second.result()[LINE].last == 3

    async def test_an_early_message_is_put_aside_once(self, harness: StoreHarness) -> None:
        """A copy of it changes nothing; another message with its number is another message."""
        await harness.source.run(stand(harness, 1, 3, 3, 4))
        await harness.source.run(harness.positions.put_early(CONSUMER, [early(3), early(3, identity="other")]))

        assert await count(harness) == 3

    async def test_the_first_that_waits_is_told_by_line(self, harness: StoreHarness) -> None:
        """By epoch first; a line where nothing waits is not there."""
        await harness.source.run(stand(harness, 1, 7, 3))
        await harness.source.run(harness.positions.put_early(CONSUMER, [early(1, epoch=EPOCH + 1, identity="next")]))
        await harness.source.run(stand(harness, 1, line=(TOPIC, "o")))

        found = await harness.source.run(harness.positions.first_early(CONSUMER, [LINE, (TOPIC, "o")]))

        assert found == {LINE: Number(EPOCH, 3)}

    async def test_what_follows_goes_on_in_the_order_of_numbers(self, harness: StoreHarness) -> None:
        """Up to the next gap, into holding, due at once; what is past goes on too, to be judged."""
        await harness.source.run(stand(harness, 1, 5, 3, 2, 6, 8, 1))

        assert await release(harness, 1) == 3
        assert await held(harness) == ["k1", "k2", "k3"]
        assert await count(harness) == 3

    async def test_so_many_go_on_as_are_asked_for(self, harness: StoreHarness) -> None:
        """The others follow another time."""
        await harness.source.run(stand(harness, 0, *range(1, 8)))

        assert [await release(harness, last, limit=3) for last in (0, 3, 6)] == [3, 3, 1]
        assert await held(harness) == [f"k{number}" for number in range(1, 8)]

    async def test_what_goes_on_keeps_its_attempts(self, harness: StoreHarness) -> None:
        """It may have failed before."""
        tried = EarlyMessage(
            number=Number(EPOCH, 2), hold_key=HOLD_KEY, message=make_message("m2"), attempts=2, history=HISTORY
        )
        await harness.source.run(stand(harness, 1))
        await harness.source.run(harness.positions.put_early(CONSUMER, [tried]))
        await release(harness, 1)
        await held(harness)

        (found,) = await harness.source.run(harness.held_queue.heads(CONSUMER, token="t", per_key=9))

        assert (found.message, found.state, found.attempts, found.history) == (
            tried.message,
            HeldState.HELD,
            2,
            HISTORY,
        )

    async def test_a_blocked_key_stays_blocked(self, harness: StoreHarness) -> None:
        """What goes on waits there behind the dead message."""
        await harness.source.run(stand(harness, 1, 2))
        await harness.source.run(harness.holding.hold(CONSUMER, [Hold(hold_key=HOLD_KEY, state=HoldState.BLOCKED)]))

        assert await release(harness, 1) == 1
        assert await held(harness) == []
        state = await harness.source.run(harness.holding.state(CONSUMER))
        assert (state.keys, state.blocked, state.messages) == (1, 1, 1)

    async def test_a_roll_back_undoes_all(self, harness: StoreHarness) -> None:
        """Positions and what waits are part of the run's transaction."""
        await harness.source.run(stand(harness, 1, 2))
        async with rolled_back(harness) as tx:
            await tx.run(stand(harness, 9, 12))
            await tx.run(harness.positions.release(CONSUMER, {LINE: Position(epoch=EPOCH, last=1)}, limit=9))

        assert (await positions(harness, LINE))[LINE].last == 1
        assert await count(harness) == 1
        assert await held(harness) == []


class GapsContract:
    """What ``Gaps`` and ``SkippedStore`` keep."""

    pytestmark = pytest.mark.asyncio

    async def test_a_gap_names_what_is_missing(self, harness: StoreHarness) -> None:
        """And how much waits for it; a line where nothing waits has none."""
        await harness.source.run(stand(harness, 1, 4, 7))
        await harness.source.run(stand(harness, 1, line=(TOPIC, "o")))

        (gap,) = await harness.source.run(harness.gaps.find(None, limit=9))

        assert (gap.consumer, gap.line, gap.buffered, gap.told_for, gap.held) == (CONSUMER, LINE, 2, None, False)
        assert gap.missing == Missing(first=Number(EPOCH, 2), last=3)
        assert timedelta(0) <= gap.stalled_for < LONG

    async def test_a_gap_is_due_when_it_has_waited_or_is_full(self, harness: StoreHarness) -> None:
        """Not before."""
        await harness.source.run(stand(harness, 1, 4, 7))

        assert await due(harness, wait=LONG) == []
        assert [gap.line for gap in await due(harness)] == [LINE]
        assert [gap.line for gap in await due(harness, wait=LONG, full_at=2)] == [LINE]

    async def test_what_was_told_of_is_not_due_for_a_while(self, harness: StoreHarness) -> None:
        """Until the line moves on."""
        await harness.source.run(stand(harness, 1, 4))
        await harness.source.run(harness.gaps.tell(CONSUMER, LINE))

        assert await due(harness, wait=LONG, full_at=1) == []
        assert [gap.told_for is not None for gap in await harness.source.run(harness.gaps.find(None, limit=9))] == [
            True
        ]
        await harness.source.run(stand(harness, 2))
        assert [gap.told_for for gap in await due(harness, wait=LONG, full_at=1)] == [None]

    async def test_what_could_go_on_is_due(self, harness: StoreHarness) -> None:
        """However that came about: a crash must not leave it behind."""
        await harness.source.run(stand(harness, 3, 4))

        (gap,) = await due(harness, wait=LONG)

        assert gap.missing is None

    async def test_a_held_key_is_not_due(self, harness: StoreHarness) -> None:
        """What is missing may wait in its hold."""
        await harness.source.run(stand(harness, 1, 4))
        await harness.source.run(harness.holding.hold(CONSUMER, [Hold(hold_key=HOLD_KEY)]))

        assert await due(harness) == []
        assert (await harness.source.run(harness.gaps.state())).lines == 0
        assert [gap.held for gap in await harness.source.run(harness.gaps.find(CONSUMER, limit=9))] == [True]

    async def test_who_looks_has_the_line_locked(self, harness: StoreHarness) -> None:
        """Nobody waits to look: where a run is at work there is nothing to be seen."""
        await harness.source.run(stand(harness, 1, 4))
        async with harness.source.begin() as tx:
            gap = await tx.run(harness.gaps.look(CONSUMER, LINE))
            assert gap is not None
            assert gap.missing == Missing(first=Number(EPOCH, 2), last=3)
            if harness.concurrent_writers:
                assert await harness.source.run(harness.gaps.look(CONSUMER, LINE)) is None

        assert await harness.source.run(harness.gaps.look(CONSUMER, (TOPIC, "o"))) is None

    async def test_the_state_counts_lines_and_messages(self, harness: StoreHarness) -> None:
        """Of all consumers."""
        assert (await harness.source.run(harness.gaps.state())).oldest_for is None
        await harness.source.run(stand(harness, 1, 4, 5))
        await harness.source.run(stand(harness, 1, 3, line=(TOPIC, "o")))

        state = await harness.source.run(harness.gaps.state())

        assert (state.lines, state.buffered) == (2, 3)
        assert state.oldest_for is not None
        assert timedelta(0) <= state.oldest_for < LONG

    async def test_what_was_skipped_is_known(self, harness: StoreHarness) -> None:
        """By line, with who decided and why."""
        range_ = SkippedNumbers(line=LINE, first=Number(EPOCH, 2), last=3, by="ada", because="they are lost")
        other = SkippedNumbers(line=(TOPIC, "o"), first=Number(EPOCH, 1), last=1, by="ada", because="so are they")
        await harness.source.run(harness.skipped.skip(CONSUMER, [range_, other]))

        found = await harness.source.run(harness.skipped.skipped(CONSUMER, [LINE]))

        assert list(found) == [range_]
        assert [range_.includes(Number(EPOCH, number)) for number in (1, 2, 3, 4)] == [False, True, True, False]


class PositionsContract(LinesContract, GapsContract):
    """What ``Positions``, ``Gaps`` and ``SkippedStore`` keep together; subclass it and supply ``harness``."""
