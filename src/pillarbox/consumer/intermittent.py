"""Loops that run only while something holds: a lease, or that nobody has stopped their consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from pillarbox.channel.wakeup import Wakeup
from pillarbox.consumer.stray import stray
from pillarbox.rounds import Loop

if TYPE_CHECKING:
    from pillarbox.clock import Clock


class Intermittent(Loop):
    """Runs loops that it makes anew each time they may work, and ends them when they may not."""

    def __init__(
        self,
        make: Callable[[], Sequence[Loop]],
        *,
        may_work: Callable[[], Awaitable[bool]],
        at_the_end: Callable[[], Awaitable[None]] | None = None,
        every: timedelta,
        clock: Clock,
    ) -> None:
        """Ask ``may_work`` again and again, ``every`` so often; when all is over await ``at_the_end``."""
        self._make = make
        self._may_work = may_work
        self._at_the_end = at_the_end
        self._every = every
        self._clock = clock
        self._loops: Sequence[Loop] = ()
        self._wakeup = Wakeup()
        self._stopping = False

    @property
    def in_hand(self) -> int:
        """How many messages the loops have received and not yet settled."""
        return sum(int(getattr(loop, "in_hand", 0)) for loop in self._loops)

    def stop(self) -> None:
        """End ``run`` when the loops have ended."""
        self._stopping = True
        self._wakeup.ring()
        for loop in self._loops:
            loop.stop()

    async def run(self) -> None:
        """Run the loops whenever they may work, until ``stop``."""
        while not self._stopping:
            if await self._may_work():
                await self._run_loops()
            elif not self._stopping:
                await self._wakeup.wait(self._clock, self._every)
        if self._at_the_end is not None:
            await self._at_the_end()

    async def _run_loops(self) -> None:
        self._loops = self._make()
        try:
            async with asyncio.TaskGroup() as watching:
                watch = watching.create_task(self._watch(self._loops))
                async with asyncio.TaskGroup() as working:
                    for loop in self._loops:
                        working.create_task(_told(loop))
                watch.cancel()
        finally:
            self._loops = ()

    async def _watch(self, loops: Sequence[Loop]) -> None:
        while not self._stopping and await self._may_work():
            await self._wakeup.wait(self._clock, self._every)
        for loop in loops:
            loop.stop()


async def _told(loop: Loop) -> None:
    """Run ``loop``; a group of tasks is silent about one that was cancelled by nobody."""
    try:
        await loop.run()
    except asyncio.CancelledError as error:
        raise stray(error, of="a loop") from error
