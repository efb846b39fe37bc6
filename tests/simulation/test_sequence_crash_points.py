"""A consumer that goes by numbers ends at any statement: nothing is lost, repeated or out of order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, select

from pillarbox import BySequence, GapPolicy, Retry
from pillarbox.ordering.strategies import GapAction
from pillarbox.relational import metadata
from pillarbox.relational.tables import dead_letters, early, held, inbox, queue
from tests import effort
from tests.fault.story import metadata as story
from tests.integration.boxes import Happenings, effects
from tests.integration.numbered import Hands, box_of_readings, reading, values
from tests.simulation.bank import bury_the_living
from tests.simulation.stepped import SteppedStore
from tests.simulation.test_crash_points import Crash, Fuse

if TYPE_CHECKING:
    from random import Random

    from pillarbox.message import Message
    from pillarbox.relational import RelationalStore

SHUFFLED = [reading(number) for number in (3, 1, 2, 6, 4, 5, 3)]
WITH_A_GAP = [reading(number) for number in (1, 4, 3, 6, 5)]
OF_TWO_EPOCHS = [reading(2), reading(1, epoch=8), reading(1), reading(2, epoch=8)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What a process does: receive, drain and look after gaps, once each.

    Attributes:
        then: what it does about gaps.
        fails: how often the handler fails for a value.
        end: what the consumer has noted in the end.
    """

    messages: Sequence[Message]
    end: list[str]
    then: GapAction = "hold"
    fails: tuple[tuple[int, int], ...] = ()

    def hands(self, store: RelationalStore) -> Hands:
        """A process on ``store``."""
        gap = GapPolicy(wait=timedelta(0), then=self.then)
        retry = Retry(attempts=5, immediate=0, first=timedelta(0))
        box, happenings = box_of_readings(
            store,  # type: ignore[arg-type]
            BySequence(gap=gap, start="first"),
            fails=dict(self.fails),
            retry=retry,
            concurrency=1,
        )
        return Hands(box, happenings or Happenings())

    async def live(self, one: Hands) -> None:
        """Do each once."""
        await one.membership.round()
        await one.receive()
        await one.drainer.round()
        await one.watch.round()
        await one.drainer.round()

    async def recover(self, one: Hands) -> None:
        """Work as a new process until nothing is left to do."""
        await one.membership.round()
        while await one.receive() or await one.drainer.round() or (self.then == "skip" and await one.watch.round()):
            pass


LIVES = {
    "shuffled": Life(messages=SHUFFLED, end=values(*range(1, 7))),
    "the-second-fails": Life(messages=SHUFFLED, end=values(*range(1, 7)), fails=((2, 1),)),
    "skipped": Life(messages=WITH_A_GAP, end=values(1, 3, 4, 5, 6), then="skip"),
    "two-epochs": Life(messages=OF_TWO_EPOCHS, end=values(1, 2, 1, 2)),
}


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
@pytest.mark.parametrize("store", ["psycopg", "sqlite"], indirect=True)
async def test_a_crash_at_any_step_loses_and_repeats_nothing_and_keeps_the_order(
    store: RelationalStore, life: Life, rng: Random
) -> None:
    await life.hands(store).begin()

    points = await _crash_at_every_step(store, life, rng)

    print(f"{points} crash points")
    assert points > 10


@pytest.fixture
async def store(store: RelationalStore) -> RelationalStore:
    """The store without the table of effects that other stories have under the same name."""
    async with store.begin() as transaction:
        await transaction.connection.run_sync(story.drop_all)
    return store


async def _crash_at_every_step(store: RelationalStore, life: Life, rng: Random) -> int:
    """Live until each step in turn, by default until each tenth; look, recover, look again."""
    stride = effort.of(1, 10)
    at = rng.randrange(stride)
    while True:
        await _empty(store)
        await store.run(store.queue.enqueue(life.messages))
        fuse = Fuse(at)
        try:
            await life.live(life.hands(SteppedStore(store, fuse.step)))
        except Crash:
            pass
        else:
            return at
        try:
            await _one_place_each(store, life)
            await bury_the_living(store)
            await life.recover(life.hands(store))
            await _one_place_each(store, life)
            assert await _column(store, select(effects.c.what).order_by(effects.c.number)) == life.end
        except AssertionError as error:
            raise AssertionError(f"crash at step {at}, before {fuse.blown_before}: {error}") from error
        at += stride


async def _one_place_each(store: RelationalStore, life: Life) -> None:
    """Assert that each message is in one place, and that effects are there as inbox rows are."""
    places = [
        set(await _column(store, select(table.c.message_id))) for table in (queue, held, early, dead_letters, inbox)
    ]
    queued, *others = places
    for message in life.messages:
        found = sum(message.id in place for place in others)
        assert found == 1 or (found == 0 and message.id in queued), f"{message.id} is in {found} places"
    assert len(await _column(store, select(effects.c.what))) == len(others[-1])


async def _column(store: RelationalStore, statement: object) -> list[str]:
    async with store.engine.connect() as connection:
        return [row[0] for row in await connection.execute(statement)]  # type: ignore[call-overload]


async def _empty(store: RelationalStore) -> None:
    async with store.begin() as transaction:
        await transaction.connection.execute(delete(effects))
        for table in reversed(metadata.sorted_tables):
            if table.name not in ("pillarbox_schema_version", "pillarbox_subscriptions"):
                await transaction.connection.execute(delete(table))
