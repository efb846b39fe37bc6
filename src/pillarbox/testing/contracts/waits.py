"""The rules of waiting for causes: who waits for what, where that is, and who is looked at again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pillarbox.deadletter import Burial, DeadLetterFilter, DeadLetterState
from pillarbox.holding import HeldState, HoldState, Waiting
from pillarbox.ordering.causes import Place
from pillarbox.testing.contracts.harness import LONG, StoreHarness, make_message, rolled_back
from pillarbox.testing.contracts.held_messages import CONSUMER, KEY, held, hold, lease, put_aside

OTHER_KEY = "k:o-2"


def waiting(message_id: str, *causes: str, hold_key: str = KEY) -> Waiting:
    """Return a message that waits for ``causes``."""
    return Waiting(message_id=message_id, hold_key=hold_key, causes=causes)


async def wait(harness: StoreHarness, *what: Waiting, consumer: str = CONSUMER) -> dict[str, timedelta]:
    """Remember what waits, in a committed transaction."""
    return dict(await harness.source.run(harness.waits.wait(consumer, what)))


async def waited_for(harness: StoreHarness, *causes: str) -> set[str]:
    """Ask in which holds somebody waits for ``causes``."""
    return set(await harness.source.run(harness.waits.waited_for(CONSUMER, causes)))


async def places(harness: StoreHarness, *ids: str) -> dict[str, Place]:
    """Ask where messages are."""
    return dict(await harness.source.run(harness.waits.places(CONSUMER, ids)))


async def bury(harness: StoreHarness, message_id: str) -> None:
    """Make a message a dead letter."""
    burial = Burial(
        hold_key=KEY,
        message=make_message(message_id),
        reason="permanent",
        attempts=1,
        history=(),
        stack="",
        fingerprint="f",
    )
    await harness.source.run(harness.dead_letters.bury(CONSUMER, [burial]))


class WaitStoreContract:
    """What every ``WaitStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_who_waits_is_found_by_each_of_its_causes(self, harness: StoreHarness) -> None:
        """Of this consumer, spelled exactly so."""
        await wait(harness, waiting("b", "a1", "a2"), waiting("c", "a2", hold_key=OTHER_KEY))
        await wait(harness, waiting("b", "theirs"), consumer="shop/other")

        assert await waited_for(harness, "a1") == {KEY}
        assert await waited_for(harness, "a2", "a3") == {KEY, OTHER_KEY}
        assert await waited_for(harness, "A1", "a1 ", "b", "theirs") == set()
        assert await waited_for(harness) == set()

    async def test_waiting_counts_from_the_first_time(self, harness: StoreHarness) -> None:
        """However often it is said, and for whatever more."""
        first = await wait(harness, waiting("b", "a1"))
        again = await wait(harness, waiting("b", "a1", "a2"), waiting("c", "a1"))

        assert timedelta(0) <= first["b"] <= again["b"] < LONG
        assert set(again) == {"b", "c"}
        assert await wait(harness) == {}

    async def test_what_is_forgotten_waits_no_more(self, harness: StoreHarness) -> None:
        """What waits for it still does."""
        await wait(harness, waiting("b", "a"), waiting("c", "b", hold_key=OTHER_KEY))

        await harness.source.run(harness.waits.forget(CONSUMER, ["b", "unknown"]))

        assert await waited_for(harness, "a") == set()
        assert await waited_for(harness, "b") == {OTHER_KEY}

    async def test_waiting_that_is_rolled_back_was_not(self, harness: StoreHarness) -> None:
        """It is part of the run's transaction."""
        async with rolled_back(harness) as tx:
            await tx.run(harness.waits.wait(CONSUMER, [waiting("b", "a")]))

        assert await waited_for(harness, "a") == set()

    async def test_looking_again_makes_what_waits_due_and_nothing_else(self, harness: StoreHarness) -> None:
        """A retry that shares the hold keeps its time, and a blocked hold stays blocked."""
        await hold(harness, KEY, OTHER_KEY, "k:retry", due_in=LONG)
        await hold(harness, "k:blocked", state=HoldState.BLOCKED)
        await put_aside(harness, held("b", HeldState.RETRYING, due_in=LONG), held("c"))
        await put_aside(harness, held("x", HeldState.RETRYING, hold_key="k:retry", due_in=LONG))
        await put_aside(harness, held("y", HeldState.RETRYING, hold_key="k:blocked", due_in=LONG))
        await wait(harness, waiting("b", "a"), waiting("y", "a", hold_key="k:blocked"))

        await harness.source.run(harness.waits.look_again(CONSUMER, [KEY, "k:retry", "k:blocked"]))
        await lease(harness, "t")
        heads = await harness.source.run(harness.held_queue.heads(CONSUMER, token="t", per_key=10))

        assert [one.message.id for one in heads] == ["b", "c"]

    async def test_places_tell_of_holds_and_dead_letters(self, harness: StoreHarness) -> None:
        """What is in neither is left out; what a replay has put back is not dead."""
        await hold(harness, KEY)
        await put_aside(harness, held("h"))
        for message_id in ("dead", "discarded", "replaying"):
            await bury(harness, message_id)
        for letter_id, state in (("discarded", DeadLetterState.DISCARDED), ("replaying", DeadLetterState.REPLAYING)):
            await self._move(harness, letter_id, state)

        found = await places(harness, "h", "dead", "discarded", "replaying", "nowhere")

        assert {name: (place.hold_key, place.is_dead) for name, place in found.items()} == {
            "h": (KEY, False),
            "dead": (None, True),
            "discarded": (None, True),
        }

    async def test_a_place_needs_what_it_waits_for_and_what_those_before_it_do(self, harness: StoreHarness) -> None:
        """Not what those behind it wait for; the order is that in which the hold is drained."""
        await hold(harness, KEY, OTHER_KEY)
        await put_aside(harness, held("first"), held("middle"), held("last"), held("far", hold_key=OTHER_KEY))
        await put_aside(harness, held("retried", HeldState.RETRYING))
        await wait(
            harness,
            *(waiting("first", "a"), waiting("last", "z"), waiting("retried", "r")),
            waiting("far", "f", hold_key=OTHER_KEY),
        )

        found = await places(harness, "first", "middle", "last", "retried")

        assert {name: set(place.needs) for name, place in found.items()} == {
            "retried": {"r"},
            "first": {"r", "a"},
            "middle": {"r", "a"},
            "last": {"r", "a", "z"},
        }
        assert sorted(found, key=lambda name: found[name].at) == ["retried", "first", "middle", "last"]

    async def test_the_state_counts_messages_not_causes(self, harness: StoreHarness) -> None:
        """Of one consumer, or of all."""
        nothing = await harness.source.run(harness.waits.state())
        await wait(harness, waiting("b", "a1", "a2"), waiting("c", "a1"))
        await wait(harness, waiting("b", "a1"), consumer="shop/other")

        mine = await harness.source.run(harness.waits.state(CONSUMER))
        everyone = await harness.source.run(harness.waits.state())

        assert (nothing.messages, nothing.oldest_for) == (0, None)
        assert (mine.messages, everyone.messages) == (2, 3)
        assert mine.oldest_for is not None
        assert timedelta(0) <= mine.oldest_for < LONG

    async def _move(self, harness: StoreHarness, message_id: str, state: DeadLetterState) -> None:
        found = await harness.source.run(harness.dead_letters.find(DeadLetterFilter(), after=0, limit=10))
        (letter,) = [one for one in found if one.message.id == message_id]
        await harness.source.run(harness.dead_letters.move(letter.id, to=state))
