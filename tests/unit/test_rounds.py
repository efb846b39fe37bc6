"""Rounds: paused between, told of when they fail, over soon after they are to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from pillarbox.errors import ConflictError, StoreUnavailableError
from pillarbox.observe import Event, Observer, WorkerFaltered
from pillarbox.rounds import Rounds
from pillarbox.testing import VirtualClock

EVERY, FIRST_AFTER = timedelta(seconds=7), timedelta(seconds=3)
FOUND_PAUSE = timedelta(seconds=1)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(autojump=True)


class Faults(Observer):
    """The faults that were told of."""

    def __init__(self) -> None:
        self.told: list[WorkerFaltered] = []

    def notice(self, event: Event, /) -> None:
        assert isinstance(event, WorkerFaltered)
        self.told.append(event)


class Watchman(Rounds):
    """Notes when it made its rounds; what happens in each is given."""

    def __init__(self, clock: VirtualClock, faults: Observer, *happens: Callable[[Watchman], int]) -> None:
        super().__init__("watchman", every=EVERY, first_after=FIRST_AFTER, clock=clock, observer=faults)
        self._happens = list(happens)
        self.rounds: list[float] = []
        self.left = 0

    async def round(self) -> int:
        self.rounds.append(self._clock.monotonic())
        return self._happens.pop(0)(self)

    def pause_after(self, found: int | None) -> timedelta:
        return FOUND_PAUSE if found else super().pause_after(found)

    async def leave(self) -> None:
        self.left += 1


def finds(count: int) -> Callable[[Watchman], int]:
    return lambda _: count


def fails(error: Exception) -> Callable[[Watchman], int]:
    def fail(_: Watchman) -> int:
        raise error

    return fail


def ends(watchman: Watchman) -> int:
    watchman.stop()
    return 0


async def walk(watchman: Watchman, clock: VirtualClock) -> list[float]:
    """Let it go its rounds; return the seconds between them, the first of them after the start."""
    began = clock.monotonic()
    await watchman.run()
    return [at - before for before, at in zip([began, *watchman.rounds], watchman.rounds, strict=False)]


async def test_the_pause_is_as_what_was_found_says(clock: VirtualClock) -> None:
    watchman = Watchman(clock, Faults(), finds(0), finds(2), finds(0), ends)

    pauses = await walk(watchman, clock)

    assert pauses == pytest.approx([3, 7, 1, 7])


@pytest.mark.parametrize("error", [StoreUnavailableError(store="the store", reason="away"), ConflictError("again")])
async def test_what_another_try_may_mend_is_told_of_and_tried_again(error: Exception, clock: VirtualClock) -> None:
    faults = Faults()

    pauses = await walk(Watchman(clock, faults, fails(error), ends), clock)

    assert pauses == pytest.approx([3, 7])
    assert faults.told == [WorkerFaltered.by(error, worker="watchman", retry_after=EVERY)]


async def test_any_other_error_ends_it(clock: VirtualClock) -> None:
    watchman = Watchman(clock, Faults(), fails(ZeroDivisionError()))

    with pytest.raises(ZeroDivisionError):
        await walk(watchman, clock)

    assert watchman.left == 0


async def test_who_is_told_to_end_while_it_rests_leaves_at_once(clock: VirtualClock) -> None:
    watchman = Watchman(clock, Faults(), finds(0))
    began = clock.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(watchman.run())
        await clock.sleep(FIRST_AFTER + EVERY / 2)

        watchman.stop()

    assert clock.monotonic() - began == pytest.approx((FIRST_AFTER + EVERY / 2).total_seconds())
    assert (len(watchman.rounds), watchman.left) == (1, 1)
