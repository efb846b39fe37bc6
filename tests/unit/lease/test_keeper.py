"""Keeping leases alive, and trusting them only as long as it is safe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pillarbox.errors import StoreUnavailableError
from pillarbox.lease import LeaseKeeper, LeaseStore, LeaseTerms, Tenancy
from pillarbox.testing import VirtualClock
from tests.unit.consumer.test_process import Steps

if TYPE_CHECKING:
    from pillarbox.transaction import Program

TERMS = LeaseTerms(scope="relay", slots=6, ttl=timedelta(seconds=15))
SECOND = timedelta(seconds=1)


class Slots(LeaseStore):
    """Says what the test says; notes what it was asked."""

    def __init__(self, clock: VirtualClock) -> None:
        self.tenancy = Tenancy(tokens={0: 7, 1: 7, 2: 8}, share=6)
        self.asked: list[object] = []
        self.slow = timedelta(0)
        self.away = False
        self._clock = clock

    def heartbeat(self, terms: LeaseTerms, owner: str) -> Program[Tenancy]:
        yield from ()
        self._clock.advance(self.slow)
        if self.away:
            raise StoreUnavailableError(store="SQLite", reason="away")
        self.asked.append("heartbeat")
        return self.tenancy

    def fence(self, terms: LeaseTerms, tokens: Mapping[int, int]) -> Program[None]:
        raise NotImplementedError

    def release(self, terms: LeaseTerms, owner: str, slots: Sequence[int]) -> Program[None]:
        yield from ()
        self.asked.append(("release", owner, tuple(slots)))

    def leave(self, terms: LeaseTerms, owner: str) -> Program[None]:
        yield from ()
        self.asked.append(("leave", owner))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def slots(clock: VirtualClock) -> Slots:
    return Slots(clock)


@pytest.fixture
def keeper(clock: VirtualClock, slots: Slots) -> LeaseKeeper:
    return LeaseKeeper(TERMS, "w1", store=slots, source=Steps(), clock=clock)


async def test_nothing_is_held_before_the_first_heartbeat(keeper: LeaseKeeper) -> None:
    assert keeper.tokens == {}
    assert keeper.surplus == ()


async def test_leases_are_trusted_for_two_thirds_of_their_time(keeper: LeaseKeeper, clock: VirtualClock) -> None:
    await keeper.keep()

    clock.advance(timedelta(seconds=9.99))
    assert keeper.tokens == {0: 7, 1: 7, 2: 8}
    clock.advance(timedelta(seconds=0.01))
    assert keeper.tokens == {}


async def test_the_time_counts_from_before_the_renewal_was_asked(
    keeper: LeaseKeeper, clock: VirtualClock, slots: Slots
) -> None:
    slots.slow = 6 * SECOND
    await keeper.keep()

    clock.advance(timedelta(seconds=3.9))
    assert keeper.tokens
    clock.advance(timedelta(seconds=0.1))
    assert not keeper.tokens


async def test_leases_are_renewed_after_a_third_of_their_time(
    keeper: LeaseKeeper, clock: VirtualClock, slots: Slots
) -> None:
    await keeper.keep()
    clock.advance(timedelta(seconds=4.9))
    await keeper.keep()
    assert slots.asked == ["heartbeat"]

    clock.advance(timedelta(seconds=0.1))
    await keeper.keep()
    assert slots.asked == ["heartbeat"] * 2


async def test_nobody_need_wait_for_longer_than_until_the_next_renewal(
    keeper: LeaseKeeper, clock: VirtualClock
) -> None:
    assert keeper.due_in == timedelta(0)
    await keeper.keep()

    assert keeper.due_in == timedelta(seconds=5)
    clock.advance(timedelta(seconds=4))
    assert keeper.due_in == timedelta(seconds=1)
    clock.advance(timedelta(seconds=4))
    assert keeper.due_in == timedelta(0)


async def test_a_renewal_that_fails_does_not_prolong_the_trust(
    keeper: LeaseKeeper, clock: VirtualClock, slots: Slots
) -> None:
    await keeper.keep()
    slots.away = True
    clock.advance(6 * SECOND)
    with pytest.raises(StoreUnavailableError):
        await keeper.keep()

    assert keeper.tokens
    clock.advance(4 * SECOND)
    assert not keeper.tokens


async def test_what_is_held_beyond_the_share_is_surplus(keeper: LeaseKeeper, slots: Slots) -> None:
    slots.tenancy = Tenancy(tokens={5: 1, 0: 1, 3: 1, 4: 1}, share=2)
    await keeper.keep()

    assert keeper.surplus == (4, 5)


async def test_what_is_given_back_is_no_longer_held(keeper: LeaseKeeper, slots: Slots) -> None:
    slots.tenancy = Tenancy(tokens={0: 1, 1: 1, 2: 1}, share=2)
    await keeper.keep()

    await keeper.give_back([2])

    assert slots.asked[-1] == ("release", "w1", (2,))
    assert (keeper.tokens, keeper.surplus) == ({0: 1, 1: 1}, ())


async def test_giving_nothing_back_asks_nobody(keeper: LeaseKeeper, slots: Slots) -> None:
    await keeper.give_back([])

    assert slots.asked == []


async def test_whoever_leaves_holds_nothing(keeper: LeaseKeeper, slots: Slots) -> None:
    await keeper.keep()

    await keeper.leave()

    assert slots.asked[-1] == ("leave", "w1")
    assert keeper.tokens == {}
