"""The rules of holding: what runs see of held keys, and what the process sees that drains them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from pillarbox.holding import HeldMessage, HeldState, Hold, HoldingState, HoldState, stop_key_of
from pillarbox.testing.contracts.draining import HISTORY, DrainingContract
from pillarbox.testing.contracts.ending import EndingContract
from pillarbox.testing.contracts.harness import LONG, StoreHarness, make_message, rolled_back
from pillarbox.testing.contracts.held_messages import (
    CONSUMER,
    KEY,
    drain,
    full_among,
    held,
    held_among,
    hold,
    holding_state,
    join,
    lease,
    put_aside,
    remove,
)


class HeldKeysContract:
    """What ``HoldingStore`` keeps: held keys as a run sees them."""

    pytestmark = pytest.mark.asyncio

    async def test_only_held_keys_are_found_held(self, harness: StoreHarness) -> None:
        """Of this consumer, spelled exactly so."""
        await hold(harness, KEY, "k:o-2")
        await harness.source.run(harness.holding.hold("shop/other", [Hold(hold_key="k:theirs")]))

        asked = [KEY, KEY.upper(), f"{KEY} ", "k:o-3", "k:theirs"]

        assert await held_among(harness, *asked) == {KEY}
        assert await held_among(harness) == set()

    async def test_a_blocked_key_is_held(self, harness: StoreHarness) -> None:
        """Until an operator decides."""
        await hold(harness, KEY, state=HoldState.BLOCKED)

        assert await held_among(harness, KEY) == {KEY}

    async def test_holding_again_keeps_one_hold_with_the_state_given(self, harness: StoreHarness) -> None:
        """State and due time are the latest."""
        await hold(harness, KEY, state=HoldState.BLOCKED)
        await hold(harness, KEY)

        state = await holding_state(harness)

        assert (state.keys, state.blocked) == (1, 0)
        assert await lease(harness, "t") == 1

    async def test_joining_holds_a_key_that_is_not_held(self, harness: StoreHarness) -> None:
        """It can be leased when it is due."""
        await join(harness, KEY)
        await join(harness, "k:later", due_in=LONG)

        assert await held_among(harness, KEY, "k:later") == {KEY, "k:later"}
        assert await lease(harness, "t") == 1

    async def test_joining_leaves_a_hold_that_is_there_as_it_is(self, harness: StoreHarness) -> None:
        """What is blocked stays blocked, and what is due later stays due later."""
        await hold(harness, KEY, state=HoldState.BLOCKED)
        await hold(harness, "k:later", due_in=LONG)
        await join(harness, KEY, "k:later")

        state = await holding_state(harness)

        assert (state.keys, state.blocked) == (2, 1)
        assert await lease(harness, "t") == 0

    async def test_a_rolled_back_hold_holds_nothing(self, harness: StoreHarness) -> None:
        """Holds are part of the run's transaction."""
        async with rolled_back(harness) as tx:
            await tx.run(harness.holding.hold(CONSUMER, [Hold(hold_key=KEY)]))
            await tx.run(harness.holding.append(CONSUMER, [held("m1")]))

        assert await holding_state(harness) == HoldingState(keys=0, blocked=0, messages=0, oldest_for=None)

    async def test_runs_that_see_the_same_hold_do_not_wait_for_each_other(self, harness: StoreHarness) -> None:
        """Seeing a hold shares it."""
        await hold(harness, KEY)
        async with harness.source.begin() as tx:
            assert set(await tx.run(harness.holding.held_among(CONSUMER, [KEY]))) == {KEY}
            if harness.concurrent_writers:
                assert await held_among(harness, KEY) == {KEY}

    async def test_a_message_is_put_aside_once(self, harness: StoreHarness) -> None:
        """A redelivered copy of it changes nothing; another consumer's is its own."""
        await hold(harness, KEY)
        await put_aside(harness, held("m1", attempts=2), held("m1", attempts=7), held("m2"))
        await put_aside(harness, held("m1", attempts=9))
        await harness.source.run(harness.holding.append("shop/other", [held("m1")]))

        assert [(one.message.id, one.attempts) for one in await drain(harness)] == [("m1", 2), ("m2", 0)]

    async def test_a_message_comes_back_as_it_was_put_aside(self, harness: StoreHarness) -> None:
        """With its attempts and their history."""
        message = replace(make_message("m1", body=bytes(range(256))), headers={"x-name": "Łódź 😀"})
        retry = HeldMessage(hold_key=KEY, message=message, state=HeldState.RETRYING, attempts=2, history=HISTORY)
        await hold(harness, KEY)
        await put_aside(harness, retry)

        assert await drain(harness) == (retry,)

    async def test_a_consumer_is_stopped_by_a_hold_that_says_so(self, harness: StoreHarness) -> None:
        """That consumer, until the hold ends."""
        await hold(harness, KEY, "m:1", "a:", "t:1", "r:1")
        before = set(await harness.source.run(harness.holding.stopped()))
        await harness.source.run(harness.holding.hold("shop/other", [Hold(hold_key=stop_key_of("m1"))]))

        assert before == set()
        assert set(await harness.source.run(harness.holding.stopped())) == {"shop/other"}
        assert set(await harness.source.run(harness.holding.stopped("shop/other"))) == {"shop/other"}
        assert set(await harness.source.run(harness.holding.stopped(CONSUMER))) == set()

    async def test_of_a_stopped_consumer_only_what_stops_it_is_leased(self, harness: StoreHarness) -> None:
        """Its replay runs, and nothing else does before that is over."""
        stop = stop_key_of("m1")
        await hold(harness, KEY, stop)
        await put_aside(harness, held("m1", HeldState.REPLAYING, hold_key=stop), held("m2"))

        first = [one.message.id for one in await drain(harness, "one")]
        await harness.source.run(harness.held_queue.remove(CONSUMER, ["m1"]))
        await harness.source.run(harness.held_queue.finish(CONSUMER, token="one"))

        assert first == ["m1"]
        assert [one.message.id for one in await drain(harness, "two")] == ["m2"]

    async def test_a_key_is_full_from_the_limit_on(self, harness: StoreHarness) -> None:
        """Its head counts, and so does what a transaction has appended itself; others' messages do not."""
        await hold(harness, KEY, "k:o-2", "k:o-3")
        await put_aside(harness, held("m1", HeldState.RETRYING), held("m2"), held("m3", HeldState.REPLAYING))
        await put_aside(harness, *(held(f"n{number}", hold_key="k:o-2") for number in range(5)))
        await harness.source.run(harness.holding.append("shop/other", [held(f"o{number}") for number in range(9)]))
        asked = [KEY, "k:o-2", "k:o-3", KEY.upper(), "k:o-4"]

        assert await full_among(harness, *asked, limit=1) == {KEY, "k:o-2"}
        assert await full_among(harness, *asked, limit=3) == {KEY, "k:o-2"}
        assert await full_among(harness, *asked, limit=4) == {"k:o-2"}
        assert await full_among(harness, KEY, limit=1) == {KEY}
        assert await full_among(harness, limit=1) == set()
        async with rolled_back(harness) as tx:
            await tx.run(harness.holding.append(CONSUMER, [held("m4")]))
            assert set(await tx.run(harness.holding.full_among(CONSUMER, [KEY], limit=4))) == {KEY}

    async def test_a_full_key_has_room_when_messages_were_removed(self, harness: StoreHarness) -> None:
        """However many it had before."""
        await hold(harness, KEY)
        await put_aside(harness, *(held(f"m{number}") for number in range(6)))

        before = await full_among(harness, KEY, limit=4)
        await remove(harness, "m0", "m1", "m2")

        assert (before, await full_among(harness, KEY, limit=4)) == ({KEY}, set())

    async def test_the_state_tells_of_the_fullest_key(self, harness: StoreHarness) -> None:
        """Of one consumer, or of all; keys of two consumers are two keys."""
        nothing = (await holding_state(harness)).fullest
        await hold(harness, KEY, "k:o-2")
        await put_aside(harness, held("m1"), held("m2"), held("m3", hold_key="k:o-2"))
        await harness.source.run(harness.holding.append("shop/other", [held(f"o{number}") for number in range(3)]))

        mine, everyone = await holding_state(harness), await harness.source.run(harness.holding.state())

        assert (nothing, mine.fullest, everyone.fullest) == (0, 2, 3)

    async def test_the_state_counts_keys_and_messages(self, harness: StoreHarness) -> None:
        """Of one consumer, or of all."""
        await hold(harness, KEY)
        await hold(harness, "k:o-2", state=HoldState.BLOCKED)
        await put_aside(harness, held("m1"), held("m2"), held("m3", hold_key="k:o-2"))
        await harness.source.run(harness.holding.hold("shop/other", [Hold(hold_key=KEY)]))

        mine, everyone = await holding_state(harness), await harness.source.run(harness.holding.state())

        assert (mine.keys, mine.blocked, mine.messages) == (2, 1, 3)
        assert (everyone.keys, everyone.blocked, everyone.messages) == (3, 1, 3)
        assert mine.oldest_for is not None
        assert timedelta(0) <= mine.oldest_for < LONG


class HoldingStoreContract(HeldKeysContract, DrainingContract, EndingContract):
    """What ``HoldingStore`` and ``HeldQueue`` keep together; subclass it and supply the fixture ``harness``."""
