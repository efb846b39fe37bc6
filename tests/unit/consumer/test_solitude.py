"""Who may be in one process beside whom."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from pillarbox.consumer.solitude import Solitude


class Visitor:
    """Enters a room and stays until told to leave."""

    def __init__(self, room: AbstractAsyncContextManager[None]) -> None:
        self._room = room
        self._leave = asyncio.Event()
        self.inside = False

    async def visit(self) -> None:
        async with self._room:
            self.inside = True
            await self._leave.wait()
        self.inside = False

    def leave(self) -> None:
        self._leave.set()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_suspect_waits_for_those_inside_and_keeps_later_ones_out() -> None:
    room = Solitude()
    early, suspect, late = Visitor(room.shared()), Visitor(room.alone()), Visitor(room.shared())

    async with asyncio.TaskGroup() as group:
        for visitor in (early, suspect, late):
            group.create_task(visitor.visit())
            await settled()
        assert (early.inside, suspect.inside, late.inside) == (True, False, False)

        early.leave()
        await settled()
        assert (early.inside, suspect.inside, late.inside) == (False, True, False)

        suspect.leave()
        await settled()
        assert (suspect.inside, late.inside) == (False, True)
        late.leave()


async def test_two_suspects_are_never_inside_together() -> None:
    room = Solitude()
    one, other = Visitor(room.alone()), Visitor(room.alone())

    async with asyncio.TaskGroup() as group:
        group.create_task(one.visit())
        group.create_task(other.visit())
        await settled()
        assert (one.inside, other.inside) == (True, False)
        one.leave()
        await settled()
        assert (one.inside, other.inside) == (False, True)
        other.leave()


async def test_a_suspect_that_is_cancelled_while_it_waits_lets_the_others_in() -> None:
    room = Solitude()
    early, suspect, late = Visitor(room.shared()), Visitor(room.alone()), Visitor(room.shared())

    async with asyncio.TaskGroup() as group:
        group.create_task(early.visit())
        await settled()
        waiting = group.create_task(suspect.visit())
        group.create_task(late.visit())
        await settled()

        waiting.cancel()
        await settled()

        assert late.inside
        early.leave()
        late.leave()
