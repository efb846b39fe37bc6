"""How long after its commit an event reaches the sender, with a producer that is a process of its own.

The same for everybody: the producer notes the time right before it sends COMMIT, the relay's process the time at which
its sender is given the event. Runs in the environments of peers too, so it needs nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace

from benchmarks.measure import Stopwatch, Task

PER_SECOND = 200
WARM_UP = 200
"""As many events at the start of a run do not count."""
_MORE_S = 60
"""How long the last event may take."""


class Arrivals:
    """When each event of a run came to the sender, the first time."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self.at: list[float | None] = [None] * count
        self.all_came = asyncio.Event()

    def note(self, number: int) -> None:
        """Note that the event with this number has come."""
        if self.at[number] is None:
            self.at[number] = time.time()
            self._missing -= 1
            if not self._missing:
                self.all_came.set()


def warmed_up(todo: Task) -> Task:
    """Return the task with the events of the warm-up added."""
    return replace(todo, count=todo.count + WARM_UP)


def is_producer(todo: Task) -> bool:
    """Tell whether this process has been started by ``measure`` to produce."""
    return todo.options.get("role") == "producer"


async def produce(todo: Task, publish: Callable[[int], Awaitable[float]]) -> None:
    """Publish the events at an even pace; ``publish`` commits one and returns when it was about to."""
    committed: list[float] = []
    start = time.perf_counter()
    for number in range(todo.count):
        await asyncio.sleep(max(0.0, start + number / PER_SECOND - time.perf_counter()))
        committed.append(await publish(number))
    print(json.dumps(committed), flush=True)


async def measure(todo: Task, arrivals: Arrivals, *, module: str) -> None:
    """Start the producer, which is ``module`` too, wait until all events have come, and report."""
    producers = json.dumps(asdict(replace(todo, options={**todo.options, "role": "producer"})))
    stopwatch = Stopwatch(todo)
    producer = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, producers, stdout=asyncio.subprocess.PIPE
    )
    stopwatch.start()
    printed, _ = await producer.communicate()
    if producer.returncode != 0:
        sys.exit(f"the producer ended with exit code {producer.returncode}")
    async with asyncio.timeout(_MORE_S):
        await arrivals.all_came.wait()
    committed = json.loads(printed)
    pairs = zip(committed, arrivals.at, strict=True)
    took = sorted((came - left) * 1000 for left, came in list(pairs)[WARM_UP:] if came is not None)
    stopwatch.report(todo.count, p50_ms=_quantile(took, 0.5), p99_ms=_quantile(took, 0.99))


def _quantile(ordered: list[float], part: float) -> float:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]
