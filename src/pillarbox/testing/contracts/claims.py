"""The rules of claims on messages that are handled outside a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta

import pytest

from pillarbox.testing.contracts.harness import ANY_AGE, LONG, SHORT, StoreHarness, let_expire, needs_concurrent_writers
from pillarbox.testing.contracts.idempotency import CONSUMER, EVEN, ODD, record
from pillarbox.testing.waiting import assert_blocked, wait_until


class ClaimStoreContract:
    """What every ``ClaimStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_message_is_claimed_once(self, harness: StoreHarness) -> None:
        """By whoever came first."""
        assert await claim(harness, "m1", "m2", token="a") == {"m1", "m2"}
        assert await claim(harness, "m2", "m3", token="b") == {"m3"}

    async def test_a_processed_message_is_not_claimed(self, harness: StoreHarness) -> None:
        """It needs no handling any more."""
        await record(harness, "m1")
        await record(harness, "m2", consumer="shop/other")

        assert await claim(harness, "m1", "m2", token="a") == {"m2"}

    async def test_a_message_is_claimed_by_each_consumer(self, harness: StoreHarness) -> None:
        """They handle it independently."""
        await claim(harness, "m1", token="a")

        other = await harness.source.run(harness.claims.claim("shop/other", ["m1"], token="b", ttl=LONG))
        assert set(other) == {"m1"}

    async def test_an_expired_claim_is_taken_over(self, harness: StoreHarness) -> None:
        """The earlier holder finds that its token is worth nothing."""
        await claim(harness, "m1", token="a", ttl=SHORT)

        async def take() -> Collection[str]:
            return await claim(harness, "m1", token="b")

        assert await wait_until(take) == {"m1"}
        assert await release(harness, "m1", token="a") == 0
        assert await claim(harness, "m1", token="c") == set()

    async def test_a_claim_held_under_the_same_token_is_extended(self, harness: StoreHarness) -> None:
        """Its holder is at work and says so."""
        await claim(harness, "m1", token="a", ttl=SHORT)

        assert await claim(harness, "m1", token="a") == {"m1"}
        await let_expire(harness)
        assert await claim(harness, "m1", token="b") == set()

    async def test_a_released_claim_can_be_taken_at_once(self, harness: StoreHarness) -> None:
        """The holder says that it is done."""
        await claim(harness, "m1", "m2", token="a")

        assert await release(harness, "m1", token="a") == 1
        assert await claim(harness, "m1", "m2", token="b") == {"m1"}

    async def test_releasing_another_s_claim_changes_nothing(self, harness: StoreHarness) -> None:
        """A claim belongs to its token."""
        await claim(harness, "m1", token="a")

        assert await release(harness, "m1", token="b") == 0
        assert await claim(harness, "m1", token="b") == set()

    async def test_concurrent_claims_of_a_message_succeed_once(self, harness: StoreHarness) -> None:
        """Four claim the same in opposite orders: no deadlock, each claimed once."""
        ids = [f"m{number}" for number in range(1000)]

        async with asyncio.TaskGroup() as tasks:
            claims = [
                tasks.create_task(claim(harness, *ids[:: 1 if turn % 2 else -1], token=f"t{turn}")) for turn in range(4)
            ]

        assert sorted(identity for one in claims for identity in one.result()) == sorted(ids)

    async def test_a_message_processed_while_it_is_claimed_is_not_claimed(self, harness: StoreHarness) -> None:
        """Its holder records it as processed and releases it in one transaction, which the claim waits for."""
        await claim(harness, "m1", token="a")

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            await tx.run(harness.inbox.record(CONSUMER, ["m1"]))
            assert await tx.run(harness.claims.release(CONSUMER, ["m1"], token="a")) == 1
            late = tasks.create_task(claim(harness, "m1", "m2", token="b"))
            await assert_blocked(late)

        assert late.result() == {"m2"}
        assert await release(harness, "m1", token="b") == 0

    async def test_claims_of_different_messages_do_not_wait_for_each_other(self, harness: StoreHarness) -> None:
        """However few there are: nothing is locked but what is named."""
        needs_concurrent_writers(harness)
        async with harness.source.begin() as one, harness.source.begin() as other:
            both = ((one, "a", ODD), (other, "b", EVEN))
            for tx, token, ids in both:
                claimed = await tx.run(harness.claims.claim(CONSUMER, ids, token=token, ttl=LONG))
                assert set(claimed) == set(ids)
            for tx, token, ids in both:
                await tx.run(harness.claims.renew(CONSUMER, ids, token=token, ttl=LONG))
            for tx, token, ids in both:
                assert await tx.run(harness.claims.release(CONSUMER, ids, token=token)) == len(ids)

        assert await claim(harness, *ODD, *EVEN, token="c") == {*ODD, *EVEN}

    async def test_processed_tells_what_the_inbox_knows(self, harness: StoreHarness) -> None:
        """Of this consumer only."""
        await record(harness, "m1", "m2")
        await record(harness, "m3", consumer="shop/other")

        found = await harness.source.run(harness.claims.processed(CONSUMER, ["m1", "m3", "m4"]))

        assert set(found) == {"m1"}

    async def test_a_purge_removes_what_expired_long_ago(self, harness: StoreHarness) -> None:
        """Whoever held it is gone, and the message never came again."""
        await claim(harness, "m1", "m2", token="a", ttl=SHORT)
        await claim(harness, "m3", token="b")
        await let_expire(harness)

        assert await harness.source.run(harness.claims.purge(LONG, limit=10)) == 0
        assert await harness.source.run(harness.claims.purge(ANY_AGE, limit=1)) == 1
        assert await harness.source.run(harness.claims.purge(ANY_AGE, limit=10)) == 1
        assert await claim(harness, "m1", "m2", "m3", token="c") == {"m1", "m2"}


async def claim(harness: StoreHarness, *ids: str, token: str, ttl: timedelta = LONG) -> Collection[str]:
    """Claim messages in a committed transaction."""
    return set(await harness.source.run(harness.claims.claim(CONSUMER, ids, token=token, ttl=ttl)))


async def release(harness: StoreHarness, *ids: str, token: str) -> int:
    """Give up claims in a committed transaction."""
    return await harness.source.run(harness.claims.release(CONSUMER, ids, token=token))
