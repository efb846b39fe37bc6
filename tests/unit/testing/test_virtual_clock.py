"""Time that passes only when it is let."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from pillarbox.testing import VirtualClock

HOUR = timedelta(hours=1)


async def test_time_stands_still_until_it_is_advanced() -> None:
    clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))

    assert (clock.now(), clock.monotonic()) == (datetime(2026, 1, 1, tzinfo=UTC), 0.0)
    clock.advance(HOUR)
    assert (clock.now(), clock.monotonic()) == (datetime(2026, 1, 1, 1, tzinfo=UTC), 3600.0)


async def test_a_sleeper_wakes_when_its_time_has_passed() -> None:
    clock = VirtualClock()
    async with asyncio.TaskGroup() as group:
        sleeper = group.create_task(clock.sleep(HOUR))
        await _turns()

        clock.advance(HOUR - timedelta(microseconds=1))
        await _turns()
        assert not sleeper.done()
        clock.advance(timedelta(microseconds=1))


async def test_a_jump_goes_to_the_first_sleeper_only() -> None:
    clock = VirtualClock()
    async with asyncio.TaskGroup() as group:
        late = group.create_task(clock.sleep(2 * HOUR))
        early = group.create_task(clock.sleep(HOUR))
        await _turns()

        assert clock.until_next() == HOUR
        assert clock.jump()
        await _turns()
        assert (early.done(), late.done()) == (True, False)
        assert clock.jump()
    assert not clock.jump()
    assert clock.monotonic() == 7200.0


async def test_a_sleeper_that_was_cancelled_is_forgotten() -> None:
    clock = VirtualClock()
    async with asyncio.TaskGroup() as group:
        sleeper = group.create_task(clock.sleep(HOUR))
        await _turns()
        sleeper.cancel()

    assert clock.until_next() is None


async def test_sleeping_for_nothing_is_one_turn_for_the_others() -> None:
    clock = VirtualClock()
    order: list[str] = []

    async def other() -> None:
        order.append("other")

    async with asyncio.TaskGroup() as group:
        group.create_task(other())
        await clock.sleep(timedelta(0))
        order.append("sleeper")

    assert order == ["other", "sleeper"]


async def test_with_autojump_sleepers_wake_in_the_order_of_their_times_and_nobody_waits() -> None:
    clock = VirtualClock(autojump=True)
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, *hours: int) -> None:
        for duration in hours:
            await clock.sleep(duration * HOUR)
            woken.append((name, clock.monotonic() / 3600))

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(sleep("a", 3, 3))
        group.create_task(sleep("b", 1, 100))
        group.create_task(sleep("c", 4))

    assert woken == [("b", 1), ("a", 3), ("c", 4), ("a", 6), ("b", 101)]


async def test_with_autojump_time_waits_for_tasks_that_are_at_work() -> None:
    clock = VirtualClock(autojump=True)

    async def work() -> float:
        for _ in range(20):
            await asyncio.sleep(0)
        await clock.sleep(HOUR)
        return clock.monotonic()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(clock.sleep(2 * HOUR))
        working = group.create_task(work())

    assert working.result() == 3600.0


async def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="back"):
        VirtualClock().advance(timedelta(seconds=-1))


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
