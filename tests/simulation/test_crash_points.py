"""A process that ends before any statement, before any commit, or after it with the answer on its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pillarbox.channel import Subscription
from tests import effort
from tests.fault.story import TOPIC
from tests.simulation.bank import (
    ACCOUNT,
    CONSUMER,
    Bank,
    Days,
    Whereabouts,
    bury_the_living,
    empty,
    entry,
    hold,
    judged,
    look,
)
from tests.simulation.stepped import SteppedStore

if TYPE_CHECKING:
    from random import Random

    from pillarbox.message import Message
    from pillarbox.relational import RelationalStore

MESSAGES = [entry(1), entry(2), entry(1, "account-2"), entry(3)]
OF_ONE_KEY = [entry(1), entry(2), entry(3)]


class Crash(BaseException):  # nothing may catch it
    """The process ends here."""


@dataclass(slots=True)
class Fuse:
    """Ends the process at step number ``at``, counted from 0; counts the steps until then."""

    at: int
    steps: int = 0
    blown_before: str = ""

    async def step(self, what: str) -> None:
        """Burn down by one."""
        if self.steps == self.at:
            self.blown_before = what
            raise Crash
        self.steps += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Which handlers fail."""

    bad: dict[str, int] = field(default_factory=dict)


TROUBLES = [Trouble(), Trouble(bad={f"{ACCOUNT}/1": 1}), Trouble(bad={f"{ACCOUNT}/2": 9})]
NAMES = ["all-goes-well", "the-first-is-retried", "the-second-dies"]


async def crash_at_every_step(store: RelationalStore, trouble: Trouble, life: Life, rng: Random) -> int:
    """Let a process live ``life`` until each step in turn; look, recover and look again; return how many there were.

    By default every third step, from one that the dice choose.
    """
    stride = effort.of(1, 3)
    at = rng.randrange(stride)
    while True:
        days = Days(dict(trouble.bad))
        await empty(store)
        await life.begin(store)
        fuse = Fuse(at)
        try:
            await life.live(_bank(SteppedStore(store, fuse.step), days))
        except Crash:
            pass
        else:
            return at
        try:
            _one_place_each(await look(store), life.messages)
            await bury_the_living(store)
            await life.recover(_bank(store, days))
            await _end_is_good(store, life.messages, trouble)
        except AssertionError as error:
            raise AssertionError(f"crash at step {at}, before {fuse.blown_before}: {error}") from error
        at += stride


class Life:
    """What a process does: handle what its channel delivers."""

    messages: Sequence[Message] = MESSAGES

    async def begin(self, store: RelationalStore) -> None:
        """Queue the messages."""
        async with store.begin() as transaction:
            await transaction.run(store.queue.enqueue(self.messages))

    async def live(self, bank: Bank) -> None:
        """Receive once, then drain what had to be held."""
        await bank.membership.round()
        await bank.receive()
        await bank.drain()

    async def recover(self, bank: Bank) -> None:
        """Receive and drain as a new process until nothing is left to do."""
        await bank.membership.round()
        while await bank.receive() or await bank.drain():
            pass


class HeldLife(Life):
    """Drain what is held."""

    messages = OF_ONE_KEY

    async def begin(self, store: RelationalStore) -> None:
        """Hold the messages."""
        await hold(store, self.messages)

    async def live(self, bank: Bank) -> None:
        """Drain once."""
        await bank.membership.round()
        await bank.drain()


def _bank(store: RelationalStore, days: Days) -> Bank:
    return Bank(store, days=days)


def _one_place_each(found: Whereabouts, messages: Sequence[Message]) -> None:
    """Assert that no message is lost or twice, and that effect, inbox row and publication are there or not as one."""
    assert {message.id: found.places_of(message) for message in messages} == {message.id: 1 for message in messages}
    assert sorted(found.with_effect) == sorted(found.processed)
    assert found.published == len(found.processed)


async def _end_is_good(store: RelationalStore, messages: Sequence[Message], trouble: Trouble) -> None:
    found = await look(store)
    _one_place_each(found, messages)
    assert not found.queued
    if any(times > 1 for times in trouble.bad.values()):
        dead, behind = frozenset({messages[1].id}), frozenset({messages[-1].id})
        assert (found.dead, found.held) == (dead, behind), "what is behind a dead message waits"
    else:
        assert (found.dead, found.held, found.open_holds) == (frozenset(), frozenset(), 0)
        (await judged(store, messages)).assert_sound()


@pytest.mark.parametrize("trouble", TROUBLES, ids=NAMES)
@pytest.mark.parametrize("life", [Life(), HeldLife()], ids=["channel", "held"])
@pytest.mark.parametrize("store", ["psycopg", "sqlite"], indirect=True)
async def test_a_crash_at_any_step_of_a_run_loses_and_repeats_nothing(
    store: RelationalStore, life: Life, trouble: Trouble, rng: Random
) -> None:

    await store.run(store.queue.subscribe(Subscription(consumer=CONSUMER, channels=(TOPIC,))))

    points = await crash_at_every_step(store, trouble, life, rng)

    print(f"{points} crash points")
    assert points > 10
