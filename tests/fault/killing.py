"""Killing workers at random while others go on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from tests.fault.recording import has_worked, was_busy
from tests.fault.story import stay_open
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.fault.workers import Worker

FIRST_WORK = timedelta(seconds=60)


async def kill_again_and_again(start: Callable[[], Worker], *, kills: int, rng: Random, at_once: int = 3) -> float:
    """Keep ``at_once`` workers running and kill one at random, again and again, each after it has done some work.

    Returns:
        The share of the kills that fell into the middle of a piece of work.
    """
    running = [start() for _ in range(at_once)]
    busy = 0
    for _ in range(kills):

        def at_work() -> list[int]:
            return [place for place, worker in enumerate(running) if has_worked(worker.mark)]

        place = rng.choice(await wait_until(at_work, FIRST_WORK, what="work of any worker"))
        await stay_open(rng.uniform(0, 200))
        running[place].kill()
        busy += was_busy(running[place].mark)
        running[place] = start()
    return busy / kills


async def kill_every(
    pause_ms: float, start: Callable[[], Worker], *, most: int, until: Callable[[], bool], rng: Random, at_once: int = 3
) -> int:
    """Keep ``at_once`` workers running, and kill one at random every ``pause_ms``; return how many were killed.

    It ends with ``until``, or after ``most`` kills.
    """
    running = [start() for _ in range(at_once)]
    kills = 0
    await wait_until(lambda: any(has_worked(worker.mark) for worker in running), FIRST_WORK, what="the first work")
    while kills < most and not until():
        await stay_open(pause_ms)
        place = rng.randrange(at_once)
        running[place].kill()
        kills += 1
        running[place] = start()
    return kills


def ended(workers: Sequence[Worker]) -> Callable[[], bool]:
    """Return whether all of ``workers`` have come to their end."""
    return lambda: all(worker.exit_code is not None for worker in workers)
