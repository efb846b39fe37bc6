"""What is the same for everybody who runs sagas: what they are about, how many run at a time, and how long each took.

Runs in the environments of peers too, so it needs nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from statistics import median

from benchmarks.order import ACCOUNTS, order_id

CREATE_ACCOUNTS = (
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, orders INTEGER NOT NULL)",
    f"INSERT INTO accounts SELECT n, 0 FROM generate_series(0, {ACCOUNTS - 1}) AS n",
)
"""What the steps of ``saga.update4`` update."""
STEPS = 4
IDLE_S = 0.005
"""How long whoever must be asked for work is left alone when there is none."""


def state_of(number: int) -> dict[str, str | int]:
    """Return what the saga with this number is about."""
    return {"order_id": order_id(number), "total_cents": 4_250}


def account_of(order_id: str) -> int:
    """Return the row that a saga's steps update."""
    return int(order_id[2:]) % ACCOUNTS


def as_json(number: int) -> str:
    """Return the state of the saga with this number as it lies in a table."""
    return json.dumps(state_of(number))


class Times:
    """How long sagas took."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def since(self, start: float) -> None:
        """Note one that began at ``start``, of ``time.perf_counter``."""
        self._seconds.append(time.perf_counter() - start)

    @property
    def p50_ms(self) -> float:
        """The median."""
        return median(self._seconds) * 1000


def chunks(count: int, size: int) -> Iterator[range]:
    """Divide the numbers of all sagas into runs of ``size``; lanes share the iterator."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))


async def in_lanes(lanes: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Let as many lanes work side by side; each is told its number."""
    async with asyncio.TaskGroup() as group:
        for number in range(lanes):
            group.create_task(_awaited(work(number)))


async def one_by_one(count: int, *, at_once: int, run: Callable[[int], Awaitable[object]]) -> Times:
    """Run each saga by one call that returns when it has ended, so many at a time."""
    times, numbers = Times(), iter(range(count))

    async def lane(_number: int) -> None:
        for number in numbers:
            start = time.perf_counter()
            await run(number)
            times.since(start)

    await in_lanes(at_once, lane)
    return times


async def _awaited(work: Awaitable[None]) -> None:
    await work
