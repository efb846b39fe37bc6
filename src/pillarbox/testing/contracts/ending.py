"""The rules of a hold's end: nothing is left behind it."""

from __future__ import annotations

import asyncio

import pytest

from pillarbox.holding import Hold, HoldState
from pillarbox.testing.contracts.harness import LONG, SHORT, StoreHarness, let_expire, rolled_back
from pillarbox.testing.contracts.held_messages import (
    CONSUMER,
    KEY,
    drain,
    fence,
    finish,
    heads,
    held,
    held_among,
    hold,
    holding_state,
    join,
    lease,
    put_aside,
    remove,
)
from pillarbox.testing.waiting import assert_blocked


class EndingContract:
    """When a hold ends, and that nothing is left behind it."""

    pytestmark = pytest.mark.asyncio

    async def test_an_empty_hold_ends(self, harness: StoreHarness) -> None:
        """Its key runs freely again."""
        await hold(harness, KEY)
        await put_aside(harness, held("m1"))
        await drain(harness)
        await remove(harness, "m1")

        assert await finish(harness) == 1
        assert await held_among(harness, KEY) == set()

    async def test_a_hold_with_messages_left_is_given_back_and_due_when_its_head_is(
        self, harness: StoreHarness
    ) -> None:
        """Anybody can lease it then, and not before."""
        await hold(harness, "k:now", "k:later")
        await put_aside(harness, held("now", hold_key="k:now"), held("later", hold_key="k:later", due_in=LONG))
        await lease(harness, "t")

        assert await finish(harness) == 0
        assert await held_among(harness, "k:now", "k:later") == {"k:now", "k:later"}
        assert [one.message.id for one in await drain(harness, "next")] == ["now"]
        assert (await holding_state(harness)).messages == 2

    async def test_a_hold_that_was_blocked_while_leased_stays(self, harness: StoreHarness) -> None:
        """Its head died; the queue behind it may be empty."""
        await hold(harness, KEY)
        await put_aside(harness, held("m1"))
        await drain(harness)
        await remove(harness, "m1")
        await hold(harness, KEY, state=HoldState.BLOCKED)

        assert await finish(harness) == 0
        assert await held_among(harness, KEY) == {KEY}
        assert await lease(harness, "next") == 0

    async def test_finishing_with_a_stale_token_ends_nothing(self, harness: StoreHarness) -> None:
        """The hold is another's to end, and stays leased to it."""
        await hold(harness, KEY)
        await lease(harness, "one", ttl=SHORT)
        await let_expire(harness)
        await lease(harness, "two")

        assert await finish(harness, "one") == 0
        await fence(harness, "two")

    async def test_removing_touches_this_consumer_s_message_only(self, harness: StoreHarness) -> None:
        """Another's copy of it waits on."""
        await put_aside(harness, held("m1"), held("m2"))
        await harness.source.run(harness.holding.append("shop/other", [held("m1")]))
        await remove(harness, "m1")

        assert (await holding_state(harness)).messages == 1
        assert (await harness.source.run(harness.holding.state("shop/other"))).messages == 1

    async def test_an_end_waits_for_a_run_that_appends_and_finds_what_it_appended(self, harness: StoreHarness) -> None:
        """The run saw the hold, so its message must not be stranded."""
        await hold(harness, KEY)
        await lease(harness, "t")

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as run:
            assert set(await run.run(harness.holding.held_among(CONSUMER, [KEY]))) == {KEY}
            ending = tasks.create_task(finish(harness))
            await assert_blocked(ending)
            await run.run(harness.holding.append(CONSUMER, [held("m1")]))

        assert ending.result() == 0
        assert [one.message.id for one in await drain(harness, "next")] == ["m1"]

    async def test_an_end_waits_for_a_run_that_joined(self, harness: StoreHarness) -> None:
        """Joining locks the hold as seeing it does."""
        await hold(harness, KEY)
        await lease(harness, "t")

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as run:
            await run.run(harness.holding.join(CONSUMER, [Hold(hold_key=KEY)]))
            ending = tasks.create_task(finish(harness))
            await assert_blocked(ending)
            await run.run(harness.holding.append(CONSUMER, [held("m1")]))

        assert ending.result() == 0
        assert [one.message.id for one in await drain(harness, "next")] == ["m1"]

    async def test_joining_waits_for_an_end_and_holds_the_key_again(self, harness: StoreHarness) -> None:
        """What is appended then is found by whoever drains."""
        await hold(harness, KEY)
        await lease(harness, "t")

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as drainer:
            assert await drainer.run(harness.held_queue.finish(CONSUMER, token="t")) == 1
            joining = tasks.create_task(join(harness, KEY))
            await assert_blocked(joining)

        await put_aside(harness, held("m1"))
        assert [one.message.id for one in await drain(harness, "next")] == ["m1"]

    async def test_a_run_waits_for_an_end_and_finds_the_key_free(self, harness: StoreHarness) -> None:
        """It handles its message normally instead of appending it to nothing."""
        await hold(harness, KEY)
        await lease(harness, "t")

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as drainer:
            assert await drainer.run(harness.held_queue.finish(CONSUMER, token="t")) == 1
            asking = tasks.create_task(held_among(harness, KEY))
            await assert_blocked(asking)

        assert asking.result() == set()

    async def test_a_run_waits_for_an_end_that_is_rolled_back_and_finds_the_key_held(
        self, harness: StoreHarness
    ) -> None:
        """The hold never ended."""
        await hold(harness, KEY)
        await lease(harness, "t")

        async with asyncio.TaskGroup() as tasks, rolled_back(harness) as drainer:
            assert await drainer.run(harness.held_queue.finish(CONSUMER, token="t")) == 1
            asking = tasks.create_task(held_among(harness, KEY))
            await assert_blocked(asking)

        assert asking.result() == {KEY}

    async def test_nothing_is_stranded_however_runs_and_ends_interleave(self, harness: StoreHarness) -> None:
        """Forty runs append to a key or handle it freely, while another drains: every message is handled once."""
        handled: list[str] = []
        await hold(harness, KEY)

        async def run(number: int) -> None:
            async with harness.source.begin() as tx:
                if await tx.run(harness.holding.held_among(CONSUMER, [KEY])):
                    await tx.run(harness.holding.append(CONSUMER, [held(f"m{number}")]))
                    return
            handled.append(f"m{number}")

        async def drain_and_end(token: str) -> None:
            if not await lease(harness, token):
                return
            ids = [one.message.id for one in await heads(harness, token)]
            await remove(harness, *ids)
            handled.extend(ids)
            await finish(harness, token)

        async with asyncio.TaskGroup() as tasks:
            for number in range(40):
                tasks.create_task(run(number))
                if number % 4 == 0:
                    tasks.create_task(drain_and_end(f"t{number}"))
                if number % 10 == 9:
                    tasks.create_task(hold(harness, KEY))
        await drain_and_end("last")

        assert sorted(handled) == sorted(f"m{number}" for number in range(40))
        assert (await holding_state(harness)).messages == 0
