"""The order of causes in a process that ends at any step, and in two whose steps come in any order."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests import effort
from tests.integration.boxes import tables
from tests.integration.causes import CONSUMER, Followers, step
from tests.simulation.bank import bury_the_living, empty
from tests.simulation.interleaving import Actor, Schedule, play
from tests.simulation.stepped import SteppedStore
from tests.simulation.test_crash_points import Crash, Fuse

if TYPE_CHECKING:
    from random import Random

    from pillarbox.relational import RelationalStore

CAUSE, EFFECT, BEHIND = step("a", key="k1"), step("b", "a", key="k2"), step("c", key="k2")
A_WHILE = timedelta(seconds=1)


@pytest.mark.parametrize("bad", [{}, {"a": 1}], ids=["all-goes-well", "the-cause-is-retried"])
@pytest.mark.parametrize("store", ["psycopg", "sqlite"], indirect=True)
async def test_a_crash_at_any_step_strands_nothing_and_keeps_the_order_of_causes(
    store: RelationalStore, bad: dict[str, int], rng: Random
) -> None:
    stride = effort.of(1, 6)
    at = rng.randrange(stride)
    ended = False
    await _create(store)
    while not ended:
        days = dict(bad)
        await empty(store)
        fuse = Fuse(at)
        try:
            process = Followers(SteppedStore(store, fuse.step), bad=days)
            await process.arrive(EFFECT, BEHIND)
            await process.arrive(CAUSE)
            await process.drain()
        except Crash:
            pass
        else:
            ended = True

        await bury_the_living(store)
        successor = Followers(store, bad=days)
        await successor.arrive(CAUSE, EFFECT, BEHIND)  # what the channel was not told of comes again
        await _end_is_good(successor, f"crash at step {at}, before {fuse.blown_before}")
        at += stride

    print(f"{at} crash points")
    assert at > 20


async def test_a_cause_committed_at_any_moment_releases_what_waits_for_it(store: RelationalStore) -> None:
    await _create(store)
    orders = 0
    prefix: list[int] | None = []
    async with store.engine.connect() as monitor:
        await monitor.execution_options(isolation_level="AUTOCOMMIT")
        while prefix is not None:
            await empty(store)
            early, late = Actor("effect", _touches_waits), Actor("cause", _touches_waits)
            effect = Followers(SteppedStore(store, early.step))
            cause = Followers(SteppedStore(store, late.step))
            schedule = Schedule(prefix)
            order = await play(
                [(early, partial(effect.arrive, EFFECT, BEHIND)), (late, partial(cause.arrive, CAUSE))],
                schedule,
                monitor,
            )
            await _end_is_good(Followers(store), f"order {' '.join(order)}")
            orders += 1
            prefix = schedule.next_prefix()

    print(f"{orders} orders")
    assert orders > 5


def _touches_waits(what: str) -> bool:
    return "pillarbox_waits" in what


async def _create(store: RelationalStore) -> None:
    """Replace the story's table of effects, which has the same name."""
    async with store.begin() as transaction:
        await transaction.connection.exec_driver_sql("DROP TABLE effects")
        await transaction.connection.run_sync(tables.create_all)


async def _end_is_good(process: Followers, history: str) -> None:
    for _ in range(4):
        await process.drain()
        await process.let_pass(A_WHILE)
    handled = await process.handled()
    assert sorted(handled) == ["a", "b", "c"], f"{history}: something is stranded, or happened twice"
    assert handled.index("a") < handled.index("b") < handled.index("c"), history
    state = await process.store.run(process.store.holding.state(CONSUMER))
    assert (state.keys, state.messages, await process.waiting()) == (0, 0, {}), history
