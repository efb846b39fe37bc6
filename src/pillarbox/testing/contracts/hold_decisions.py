"""The rules of what operators decide about held keys: order is kept, and nobody works on what was taken away."""

from __future__ import annotations

import pytest

from pillarbox.errors import LeaseLostError
from pillarbox.holding import HeldMessage, HeldState, Hold, HoldState
from pillarbox.holding.decisions import LockedHold
from pillarbox.testing.contracts.harness import LONG, SHORT, StoreHarness, let_expire, make_message
from pillarbox.testing.contracts.held_messages import (
    CONSUMER,
    KEY,
    drain,
    heads,
    held,
    held_among,
    hold,
    lease,
    put_aside,
)


class HoldDecisionsContract:
    """What every ``HoldDecisions`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_hold_is_locked_with_its_state_and_its_first_message(self, harness: StoreHarness) -> None:
        """Of this consumer; what is not held cannot be locked."""
        retry = held("m2", HeldState.RETRYING, attempts=3, due_in=LONG)
        await hold(harness, KEY, due_in=LONG)
        await hold(harness, "k:empty", state=HoldState.BLOCKED)
        await put_aside(harness, held("m1"), retry)

        head = HeldMessage(hold_key=KEY, message=make_message("m2"), state=HeldState.RETRYING, attempts=3)
        assert await _lock(harness) == LockedHold(state=HoldState.WAITING, is_leased=False, head=head)
        assert await _lock(harness, "k:empty") == LockedHold(state=HoldState.BLOCKED, is_leased=False, head=None)
        assert await _lock(harness, "k:other") is None

    async def test_the_first_message_of_a_hold_is_due_or_waits_for_its_time(self, harness: StoreHarness) -> None:
        """Also one that was held behind another and failed when its turn came."""
        await hold(harness, KEY, "k:o-2", "k:empty")
        await put_aside(harness, held("m1"), held("m2", hold_key="k:o-2"))
        await harness.source.run(harness.held_queue.reschedule(CONSUMER, [held("m2", hold_key="k:o-2", due_in=LONG)]))

        locked = [await _lock(harness, one) for one in (KEY, "k:o-2", "k:empty")]
        assert [one.is_due for one in locked if one is not None] == [True, False, False]

    async def test_a_hold_is_leased_until_its_lease_ends(self, harness: StoreHarness) -> None:
        """By the database's clock."""
        await hold(harness, KEY)
        await put_aside(harness, held("m1"))
        await lease(harness, "t", ttl=LONG)
        during = await _lock(harness)
        await harness.source.run(harness.held_queue.renew(CONSUMER, token="t", ttl=SHORT))
        await let_expire(harness)
        after = await _lock(harness)

        assert during is not None
        assert after is not None
        assert (during.is_leased, after.is_leased) == (True, False)

    async def test_what_is_let_go_is_due_now_in_its_order(self, harness: StoreHarness) -> None:
        """Blocked or waiting for a retry; other keys wait on."""
        await hold(harness, KEY, state=HoldState.BLOCKED)
        await hold(harness, "k:o-2", due_in=LONG)
        await put_aside(harness, held("m1"), held("m2", HeldState.RETRYING, due_in=LONG), held("m3"))
        await put_aside(harness, held("x", HeldState.RETRYING, hold_key="k:o-2", due_in=LONG))

        await harness.source.run(harness.operators.holds.let_go(CONSUMER, KEY))

        assert [one.message.id for one in await drain(harness)] == ["m2", "m1", "m3"]

    async def test_what_is_taken_out_is_gone_and_whoever_had_leased_it_fails(self, harness: StoreHarness) -> None:
        """A paused process must not commit what was given up meanwhile."""
        await hold(harness, KEY)
        await put_aside(harness, held("m1"), held("m2"))
        await lease(harness, "paused")

        await harness.source.run(harness.operators.holds.take_out(CONSUMER, KEY, ["m1"]))

        with pytest.raises(LeaseLostError):
            await harness.source.run(harness.held_queue.fence(CONSUMER, [KEY], token="paused"))
        assert await heads(harness, "paused") == ()
        assert [one.message.id for one in await drain(harness)] == ["m2"]

    async def test_a_message_of_another_key_is_not_taken_out(self, harness: StoreHarness) -> None:
        """Nor that of another consumer."""
        await hold(harness, KEY, "k:o-2")
        await put_aside(harness, held("m1"), held("m2", hold_key="k:o-2"))
        await harness.source.run(harness.holding.append("shop/other", [held("m1")]))

        await harness.source.run(harness.operators.holds.take_out(CONSUMER, KEY, ["m1", "m2"]))

        assert [one.message.id for one in await drain(harness)] == ["m2"]
        assert (await harness.source.run(harness.holding.state("shop/other"))).messages == 1

    async def test_a_held_message_is_put_under_another_hold(self, harness: StoreHarness) -> None:
        """And waits there."""
        await hold(harness, KEY)
        await harness.source.run(harness.holding.hold(CONSUMER, [Hold(hold_key="m:m1", state=HoldState.BLOCKED)]))
        await put_aside(harness, held("m1"), held("m2"))

        await harness.source.run(harness.operators.holds.put_under(CONSUMER, "m1", "m:m1"))
        await harness.source.run(harness.operators.holds.put_under(CONSUMER, "m9", "m:m9"))

        assert [one.message.id for one in await drain(harness)] == ["m2"]
        assert await held_among(harness, "m:m1", "m:m9") == {"m:m1"}
        locked = await _lock(harness, "m:m1")
        assert locked is not None
        assert locked.head is not None
        assert locked.head.message.id == "m1"


async def _lock(harness: StoreHarness, hold_key: str = KEY) -> LockedHold | None:
    return await harness.source.run(harness.operators.holds.lock(CONSUMER, hold_key))
