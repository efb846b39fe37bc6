"""The rules of a record of processes: found when they are due, changed under a lock or by their version."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from pillarbox.flow import FlowsState
from pillarbox.flow.policy import FlowInstance, FlowState, ended
from pillarbox.flow.store import Standing
from pillarbox.testing.contracts.harness import ANY_AGE, LONG, StoreHarness, needs_concurrent_writers, rolled_back
from pillarbox.testing.waiting import wait_until
from pillarbox.transaction import Program

FLOW, OTHER = "shop/fulfilment", "shop/returns"
SOON = timedelta(milliseconds=30)


class FlowInstancesContract:
    """What every ``FlowInstances`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio
    begun = 0

    async def test_a_process_is_made_where_it_is_opened_and_not_where_it_is_met(self, harness: StoreHarness) -> None:
        """And opened twice it is one."""
        assert (await lock(harness, met=["p-1"])).instances == []

        await lock(harness, opened=["p-1"])
        standing = await lock(harness, opened=["p-1", "p-2"])

        assert [(one.correlation_id, one.state) for one in standing.instances] == [
            ("p-1", FlowState.WAITING),
            ("p-2", FlowState.WAITING),
        ]
        assert [one.correlation_id for one in (await lock(harness, met=["p-2", "p-3"])).instances] == ["p-2"]

    async def test_a_process_is_of_one_flow(self, harness: StoreHarness) -> None:
        """Only what is named is locked, also where its flow and its process are each named with others."""
        await harness.source.run(harness.flows.instances.lock([(FLOW, "p-1"), (OTHER, "p-1"), (OTHER, "p-2")], ()))

        found = await harness.source.run(harness.flows.instances.lock((), [(FLOW, "p-1"), (OTHER, "p-2")]))

        assert [(one.flow, one.correlation_id) for one in found.instances] == [(FLOW, "p-1"), (OTHER, "p-2")]

    async def test_what_is_saved_is_read_again(self, harness: StoreHarness) -> None:
        """Every fact of it, and its version is one higher."""
        (before,), now = (standing := await lock(harness, opened=["p-1"])).instances, standing.now
        full = replace(
            before,
            state=FlowState.STUCK,
            started_at=now - LONG,
            due_at=now + LONG,
            stuck_at=now,
            told=("m-1>shop/reserve", "end"),
            missing=("order.shipped has not come", 'Łukasz\'s «reaction» "m-1" has not come'),
        )

        await harness.source.run(harness.flows.instances.save([full]))

        assert list((await lock(harness, met=["p-1"])).instances) == [replace(full, version=before.version + 1)]

    async def test_nothing_of_it_stays_when_the_transaction_is_rolled_back(self, harness: StoreHarness) -> None:
        """Neither what was opened nor what was saved."""
        async with rolled_back(harness) as tx:
            standing = await tx.run(harness.flows.instances.lock([(FLOW, "p-1")], ()))
            await tx.run(harness.flows.instances.save([_running(standing.instances[0], standing.now)]))

        assert (await lock(harness, met=["p-1"])).instances == []

    async def test_a_process_is_due_when_its_time_has_come_by_the_database_s_clock(self, harness: StoreHarness) -> None:
        """Not before, and only if it has started and not ended."""
        now = await self.begin(harness, "later", due_in=LONG)
        await self.begin(harness, "soon", due_in=SOON)
        await lock(harness, opened=["waiting"])
        standing = await lock(harness, opened=["over"])
        await harness.source.run(harness.flows.instances.save([ended(standing.instances[0], by="x", now=now)]))

        async def is_due() -> bool:
            return bool((await due(harness)).instances)

        await wait_until(is_due)

        found = await due(harness)
        assert [one.correlation_id for one in found.instances] == ["soon"]
        assert all(one.due_at is not None and one.due_at <= found.now for one in found.instances)
        assert (await due(harness, flows=[OTHER])).instances == []

    async def test_those_due_longest_come_first(self, harness: StoreHarness) -> None:
        """And no more than are wanted."""
        for name, ago in (("b", 2), ("a", 3), ("c", 1)):
            await self.begin(harness, name, due_in=timedelta(seconds=-ago))

        found = await harness.source.run(harness.flows.instances.due([FLOW, OTHER], limit=2))

        assert [one.correlation_id for one in found.instances] == ["a", "b"]

    async def test_of_several_who_change_a_process_at_once_one_does(self, harness: StoreHarness) -> None:
        """Compare and set: so each thing that is missing is told of by one of them."""
        await self.begin(harness, "p-1", due_in=-SOON)
        (seen,) = (await due(harness)).instances
        changed: list[bool] = []

        async def change() -> None:
            stuck = replace(seen, state=FlowState.STUCK, due_at=None, told=("end",))
            changed.append(await harness.source.run(harness.flows.instances.change(stuck)))

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(change())

        assert sorted(changed) == [False, False, False, True]

    async def test_who_looked_before_a_message_came_changes_nothing(self, harness: StoreHarness) -> None:
        """What a message has made of the process stays."""
        await self.begin(harness, "p-1", due_in=-SOON)
        (seen,) = (await due(harness)).instances
        standing = await lock(harness, met=["p-1"])
        over = ended(standing.instances[0], by="order.shipped", now=standing.now)
        await harness.source.run(harness.flows.instances.save([over]))

        assert not await harness.source.run(harness.flows.instances.change(replace(seen, state=FlowState.STUCK)))

        assert (await lock(harness, met=["p-1"])).instances[0].ended_by == "order.shipped"

    async def test_whoever_opens_a_process_that_another_has_locked_waits_for_it(self, harness: StoreHarness) -> None:
        """And reads what the other one wrote."""
        needs_concurrent_writers(harness)
        versions: list[int] = []

        async def move() -> None:
            def program() -> Program[int]:
                standing = yield from harness.flows.instances.lock([(FLOW, "p-1")], ())
                yield from harness.flows.instances.save(standing.instances)
                return standing.instances[0].version

            versions.append(await harness.source.run(program()))

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(move())

        assert sorted(versions) == [0, 1, 2, 3, 4]

    async def test_what_is_stuck_or_not_looked_at_is_overdue(self, harness: StoreHarness) -> None:
        """Started first first."""
        await self.begin(harness, "fine", due_in=LONG)
        await self.begin(harness, "unwatched", due_in=-SOON)
        await self.begin(harness, "stuck", due_in=LONG, state=FlowState.STUCK)

        every = await harness.source.run(harness.flows.instances.overdue(None, limit=9))
        of_other = await harness.source.run(harness.flows.instances.overdue([OTHER], limit=9))

        assert [one.correlation_id for one in every.instances] == ["unwatched", "stuck"]
        assert of_other.instances == []

    async def test_health_counts_what_is_stuck_with_its_age(self, harness: StoreHarness) -> None:
        """And for how long nobody has looked at what was due."""
        assert await state(harness) == FlowsState(stuck=0, oldest_for=None, unwatched_for=None)
        await self.begin(harness, "fine", due_in=LONG)
        await self.begin(harness, "unwatched", due_in=-LONG)
        await self.begin(harness, "stuck", due_in=LONG, state=FlowState.STUCK)

        found = await state(harness)

        assert found.stuck == 1
        assert found.oldest_for is not None
        assert timedelta(0) <= found.oldest_for < LONG
        assert found.unwatched_for is not None
        assert LONG <= found.unwatched_for < 2 * LONG

    async def test_what_is_over_or_never_started_is_removed_and_what_is_stuck_stays(
        self, harness: StoreHarness
    ) -> None:
        """In batches; a process that nobody has closed is not forgotten."""
        now = await self.begin(harness, "running", due_in=LONG)
        await self.begin(harness, "stuck", due_in=LONG, state=FlowState.STUCK)
        standing = await lock(harness, opened=["over-1", "over-2", "waiting"])
        over = [ended(one, by="x", now=now) for one in standing.instances if one.correlation_id != "waiting"]
        await harness.source.run(harness.flows.instances.save(over))

        assert await purge(harness, LONG, limit=9) == 0
        assert [await purge(harness, ANY_AGE, limit=2) for _ in range(3)] == [2, 1, 0]

        met = ["running", "stuck", "over-1", "over-2", "waiting"]
        left = [one.correlation_id for one in (await lock(harness, met=met)).instances]
        assert left == ["running", "stuck"]

    async def begin(
        self, harness: StoreHarness, process: str, *, due_in: timedelta, state: FlowState = FlowState.RUNNING
    ) -> datetime:
        """Begin a process, later than those begun before; return the database's time."""
        standing = await lock(harness, opened=[process])
        self.begun += 1
        started_at = standing.now + self.begun * timedelta(milliseconds=1)  # its clock may show the same for two
        one = replace(_running(standing.instances[0], started_at), state=state, due_at=standing.now + due_in)
        stuck_at = standing.now if state is FlowState.STUCK else None
        await harness.source.run(harness.flows.instances.save([replace(one, stuck_at=stuck_at)]))
        return standing.now


def _running(one: FlowInstance, now: datetime) -> FlowInstance:
    return replace(one, state=FlowState.RUNNING, started_at=now, due_at=now)


async def lock(harness: StoreHarness, *, opened: Sequence[str] = (), met: Sequence[str] = ()) -> Standing:
    """Lock processes of the flow for as long as it takes to read them."""
    program = harness.flows.instances.lock([(FLOW, one) for one in opened], [(FLOW, one) for one in met])
    return await harness.source.run(program)


async def due(harness: StoreHarness, *, flows: Sequence[str] = (FLOW,)) -> Standing:
    """Ask what is due."""
    return await harness.source.run(harness.flows.instances.due(flows, limit=9))


async def state(harness: StoreHarness) -> FlowsState:
    """Ask how flows fare."""
    return await harness.source.run(harness.flows.instances.state())


async def purge(harness: StoreHarness, older_than: timedelta, *, limit: int) -> int:
    """Remove what is over."""
    return await harness.source.run(harness.flows.instances.purge(older_than, limit=limit))
