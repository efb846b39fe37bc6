"""The rules of draining: what the process sees that handles a held key from its head."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pillarbox.errors import LeaseLostError
from pillarbox.holding import FailedAttempt, HeldState, Hold, HoldState
from pillarbox.testing.contracts.harness import LONG, SHORT, StoreHarness, let_expire
from pillarbox.testing.contracts.held_messages import (
    CONSUMER,
    KEY,
    drain,
    fence,
    fence_lost,
    heads,
    held,
    hold,
    lease,
    put_aside,
)
from pillarbox.testing.waiting import assert_blocked

HISTORY = (
    FailedAttempt(attempt=1, at=datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC), error_type="ValueError", error="ünfit"),
    FailedAttempt(attempt=2, at=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC), error_type="KeyError", error=""),
)


class DrainingContract:
    """What ``HeldQueue`` keeps: held keys as the process sees them that drains one from its head."""

    pytestmark = pytest.mark.asyncio

    async def test_a_due_hold_is_leased_once(self, harness: StoreHarness) -> None:
        """While the lease lasts nobody else gets it."""
        await hold(harness, KEY)

        assert await lease(harness, "one") == 1
        assert await lease(harness, "two") == 0

    async def test_holds_that_are_not_due_or_blocked_or_another_s_are_not_leased(self, harness: StoreHarness) -> None:
        """There is nothing to be done about them now."""
        await hold(harness, "k:later", due_in=LONG)
        await hold(harness, "k:blocked", state=HoldState.BLOCKED)
        await harness.source.run(harness.holding.hold("shop/other", [Hold(hold_key=KEY)]))

        assert await lease(harness, "t") == 0

    async def test_no_more_holds_are_leased_than_the_limit(self, harness: StoreHarness) -> None:
        """Those that have been due for longest come first."""
        for number in range(5):
            await hold(harness, f"k:{number}")
            await put_aside(harness, held(f"m{number}", hold_key=f"k:{number}"))
            await let_expire(harness)

        assert [await lease(harness, token, limit=2) for token in ("a", "b", "c")] == [2, 2, 1]
        assert [one.message.id for one in await heads(harness, "a")] == ["m0", "m1"]

    async def test_concurrent_leases_share_no_hold(self, harness: StoreHarness) -> None:
        """However many processes ask at once."""
        await hold(harness, *(f"k:{number}" for number in range(40)))
        await put_aside(harness, *(held(f"m{number}", hold_key=f"k:{number}") for number in range(40)))

        async with asyncio.TaskGroup() as tasks:
            leases = [tasks.create_task(lease(harness, f"t{number}", limit=7)) for number in range(8)]
        rest = await lease(harness, "rest", limit=100)

        leased = [one.message.id for number in range(8) for one in await heads(harness, f"t{number}")]
        leased += [one.message.id for one in await heads(harness, "rest")]
        assert sum(task.result() for task in leases) + rest == 40
        assert sorted(leased) == sorted(f"m{number}" for number in range(40))

    async def test_an_expired_lease_is_taken_over(self, harness: StoreHarness) -> None:
        """The earlier holder sees nothing under its token any more."""
        await hold(harness, KEY)
        await put_aside(harness, held("m1"))
        await lease(harness, "one", ttl=SHORT)
        await let_expire(harness)

        assert await lease(harness, "two") == 1
        assert await heads(harness, "one") == ()
        assert [one.message.id for one in await heads(harness, "two")] == ["m1"]

    async def test_holding_a_leased_key_again_leaves_its_lease(self, harness: StoreHarness) -> None:
        """Another run adds to it; who drains it goes on."""
        await hold(harness, KEY)
        await lease(harness, "one")
        await hold(harness, KEY)

        assert await lease(harness, "two") == 0
        await fence(harness, "one")

    async def test_heads_come_in_order_up_to_the_number_asked_for(self, harness: StoreHarness) -> None:
        """Of each hold that is leased, and of no other."""
        await hold(harness, "k:a", "k:b")
        await put_aside(harness, *(held(f"{key}{number}", hold_key=f"k:{key}") for number in range(4) for key in "ab"))
        await lease(harness, "t")
        await hold(harness, "k:c")
        await put_aside(harness, held("c0", hold_key="k:c"))

        found = [one.message.id for one in await heads(harness, "t", per_key=3)]

        assert [one for one in found if one[0] == "a"] == ["a0", "a1", "a2"]
        assert [one for one in found if one[0] == "b"] == ["b0", "b1", "b2"]
        assert len(found) == 6

    async def test_replays_stand_before_retries_and_retries_before_what_is_held(self, harness: StoreHarness) -> None:
        """In each of these ranks, in the order they were put aside."""
        await hold(harness, KEY)
        await put_aside(harness, held("held-1"), held("held-2"))
        await put_aside(harness, held("retry", HeldState.RETRYING))
        await put_aside(harness, held("replay-1", HeldState.REPLAYING), held("replay-2", HeldState.REPLAYING))

        found = [one.message.id for one in await drain(harness)]

        assert found == ["replay-1", "replay-2", "retry", "held-1", "held-2"]

    async def test_a_replay_of_a_message_that_is_held_takes_its_place_at_the_head(self, harness: StoreHarness) -> None:
        """A late duplicate of a dead message had been held behind its own key."""
        await hold(harness, KEY, state=HoldState.BLOCKED)
        await put_aside(harness, held("m2"), held("m1"))
        await put_aside(harness, held("m1", HeldState.REPLAYING, attempts=0))
        await hold(harness, KEY)

        found = [(one.message.id, one.state) for one in await drain(harness)]

        assert found == [("m1", HeldState.REPLAYING), ("m2", HeldState.HELD)]

    async def test_nothing_passes_a_head_that_is_not_due(self, harness: StoreHarness) -> None:
        """Its successors wait with it; other keys do not."""
        await hold(harness, "k:a", "k:b")
        await put_aside(
            harness, held("a0", HeldState.RETRYING, hold_key="k:a", due_in=LONG), held("a1", hold_key="k:a")
        )
        await put_aside(harness, held("b0", hold_key="k:b"), held("b1", hold_key="k:b", due_in=LONG))
        await put_aside(harness, held("b2", hold_key="k:b"))

        assert [one.message.id for one in await drain(harness)] == ["b0"]

    async def test_a_rescheduled_head_keeps_its_place_with_its_new_attempts(self, harness: StoreHarness) -> None:
        """And is due when it says."""
        await hold(harness, KEY)
        await put_aside(harness, held("m1", HeldState.RETRYING), held("m2"))
        (head, _) = await drain(harness)
        again = replace(head, attempts=2, history=HISTORY, due_in=SHORT)

        await harness.source.run(harness.held_queue.reschedule(CONSUMER, [again]))
        await let_expire(harness)

        assert await heads(harness, "t") == (replace(again, due_in=timedelta(0)), held("m2"))

    async def test_a_fence_with_a_stale_token_raises(self, harness: StoreHarness) -> None:
        """Also where only one of several holds is lost, or has ended."""
        await hold(harness, "k:a", "k:b")
        await lease(harness, "one")
        await fence(harness, "one", "k:a", "k:b")

        with pytest.raises(LeaseLostError):
            await fence(harness, "two", "k:a")
        with pytest.raises(LeaseLostError):
            await fence(harness, "one", "k:a", "k:gone")

    async def test_a_fence_waits_for_a_takeover_and_then_raises(self, harness: StoreHarness) -> None:
        """The lease is looked at under its lock."""
        await hold(harness, KEY)
        await lease(harness, "one", ttl=SHORT)
        await let_expire(harness)

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            assert await tx.run(harness.held_queue.lease_due(CONSUMER, token="two", limit=9, ttl=LONG)) == 1
            fencing = tasks.create_task(fence_lost(harness, "one"))
            await assert_blocked(fencing)

        assert fencing.result() is True

    async def test_a_fenced_hold_is_not_taken_over_before_the_transaction_ends(self, harness: StoreHarness) -> None:
        """Even though its lease has expired."""
        await hold(harness, KEY)
        await lease(harness, "one", ttl=SHORT)
        await let_expire(harness)

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            await tx.run(harness.held_queue.fence(CONSUMER, [KEY], token="one"))
            other = tasks.create_task(lease(harness, "two"))
            await asyncio.wait({other}, timeout=0.05)
            assert not other.done() or other.result() == 0
