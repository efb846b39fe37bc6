"""Every order in which the steps of two actors can happen on a database that makes them wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import text

from tests.simulation.stepped import COMMITTED

if TYPE_CHECKING:
    from random import Random

    from sqlalchemy.ext.asyncio import AsyncConnection

POLL_S = 0.002
WAITING = text(
    "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()"
)


@dataclass(slots=True)
class Actor:
    """Somebody who takes steps when allowed to."""

    name: str
    matters: Callable[[str], bool]
    stands: bool = False
    done: bool = False
    _go: asyncio.Event = field(default_factory=asyncio.Event)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def step(self, what: str) -> None:
        """Stand still before ``what`` until it is this actor's turn; steps that matter to nobody are free."""
        if what == COMMITTED or not self.matters(what):
            return
        self.stands = True
        self._arrived.set()
        await self._go.wait()
        self._go.clear()

    def go(self) -> None:
        """Take the next step."""
        self.stands = False
        self._arrived.clear()
        self._go.set()

    def end(self) -> None:
        """Take no more steps."""
        self.done = True
        self._arrived.set()

    async def arrival(self) -> None:
        """Wait for the next stand, or the end."""
        await self._arrived.wait()

    @property
    def under_way(self) -> bool:
        """Whether it is somewhere between two stands: working, or waiting for a lock."""
        return not self.stands and not self.done


Act = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Schedule:
    """Which actor goes, at each point where there is a choice; beyond ``prefix`` the first, or as the dice say."""

    prefix: list[int]
    dice: Random | None = None
    choices: list[int] = field(default_factory=list)
    alternatives: list[int] = field(default_factory=list)

    def choose(self, among: Sequence[Actor]) -> Actor:
        """Choose, and remember how many could have been chosen."""
        place = len(self.choices)
        beyond = 0 if self.dice is None else self.dice.randrange(len(among))
        chosen = self.prefix[place] if place < len(self.prefix) else beyond
        self.choices.append(chosen)
        self.alternatives.append(len(among))
        return among[chosen]

    def next_prefix(self) -> list[int] | None:
        """Return the schedule that follows in the order of the search; ``None`` after the last."""
        for place in reversed(range(len(self.choices))):
            if self.choices[place] + 1 < self.alternatives[place]:
                return [*self.choices[:place], self.choices[place] + 1]
        return None


def every_schedule() -> Iterator[Schedule]:
    """Search through all orders; each schedule must have been played when the next is asked for."""
    prefix: list[int] | None = []
    while prefix is not None:
        schedule = Schedule(prefix)
        yield schedule
        prefix = schedule.next_prefix()


def some_schedules(count: int, dice: Random) -> Iterator[Schedule]:
    """Throw ``dice`` for ``count`` orders."""
    return (Schedule([], dice) for _ in range(count))


async def play(actors: Sequence[tuple[Actor, Act]], schedule: Schedule, monitor: AsyncConnection) -> list[str]:
    """Have the actors act in the order of ``schedule``; return the names in the order of their steps."""
    order: list[str] = []

    async def perform(actor: Actor, act: Act) -> None:
        try:
            await act()
        finally:
            actor.end()

    async with asyncio.TaskGroup() as group:
        for actor, act in actors:
            group.create_task(perform(actor, act))
        everybody = [actor for actor, _ in actors]
        while True:
            await _settled(everybody, monitor)
            ready = [actor for actor in everybody if actor.stands]
            if not ready:
                break
            chosen = schedule.choose(ready)
            order.append(chosen.name)
            chosen.go()
    return order


async def _settled(actors: Sequence[Actor], monitor: AsyncConnection) -> None:
    """Wait until every actor stands, has ended, or waits for a lock."""
    while moving := [actor for actor in actors if actor.under_way]:
        arrivals = [asyncio.ensure_future(actor.arrival()) for actor in moving]
        await asyncio.wait(arrivals, timeout=POLL_S, return_when=asyncio.ALL_COMPLETED)
        for arrival in arrivals:
            arrival.cancel()
        moving = [actor for actor in actors if actor.under_way]
        somebody_can_go = any(actor.stands for actor in actors)
        if moving and somebody_can_go and (await monitor.execute(WAITING)).scalar_one() >= len(moving):
            return
