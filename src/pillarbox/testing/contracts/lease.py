"""The rules of leases: one owner for each slot, tokens that only grow, shares that are fair."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from pillarbox.errors import LeaseLostError
from pillarbox.lease import LeaseTerms, Tenancy
from pillarbox.testing.contracts.harness import LONG, SHORT, StoreHarness, let_expire, rolled_back
from pillarbox.testing.waiting import wait_until

SOON = timedelta(seconds=1)
TERMS = LeaseTerms(scope="relay", slots=16, ttl=LONG)
BRIEF = LeaseTerms(scope="relay", slots=16, ttl=SHORT)
WHOLE_BRIEF = LeaseTerms(scope="relay", slots=1, ttl=SHORT, whole=True)
WHOLE = LeaseTerms(scope="relay", slots=16, ttl=LONG, whole=True)


async def beat(harness: StoreHarness, owner: str, terms: LeaseTerms = TERMS) -> Tenancy:
    """Send one heartbeat."""
    return await harness.source.run(harness.leases.heartbeat(terms, owner))


async def give_back(harness: StoreHarness, owner: str, *slots: int) -> None:
    """Release some slots."""
    await harness.source.run(harness.leases.release(TERMS, owner, slots))


async def leave(harness: StoreHarness, owner: str) -> None:
    """Leave the scope."""
    await harness.source.run(harness.leases.leave(TERMS, owner))


async def settle_shares(harness: StoreHarness, *owners: str) -> dict[str, Tenancy]:
    """Let ``owners`` beat, and give back what is above their share, until each has what it should have."""
    tenancies: dict[str, Tenancy] = {}
    for _ in range(3):
        for owner in owners:
            tenancy = tenancies[owner] = await beat(harness, owner)
            surplus = sorted(tenancy.tokens)[tenancy.share :]
            if surplus:
                await give_back(harness, owner, *surplus)
                kept = {slot: token for slot, token in tenancy.tokens.items() if slot not in surplus}
                tenancies[owner] = Tenancy(tokens=kept, share=tenancy.share)
    return tenancies


class LeaseStoreContract:
    """What every ``LeaseStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_an_owner_alone_gets_every_slot(self, harness: StoreHarness) -> None:
        """At its first heartbeat."""
        tenancy = await beat(harness, "one")

        assert (sorted(tenancy.tokens), tenancy.share) == (list(range(16)), 16)

    async def test_a_renewal_keeps_slots_and_tokens(self, harness: StoreHarness) -> None:
        """A token is for a tenancy, not for a heartbeat."""
        assert await beat(harness, "one") == await beat(harness, "one")

    @pytest.mark.parametrize(("count", "share"), [(1, 16), (2, 8), (3, 6), (16, 1), (20, 1)])
    async def test_shares_are_fair(self, harness: StoreHarness, count: int, share: int) -> None:
        """Nobody holds more than the share, and nothing is left over."""
        tenancies = await settle_shares(harness, *(f"owner-{number}" for number in range(count)))

        held = [slot for tenancy in tenancies.values() for slot in tenancy.tokens]
        assert {tenancy.share for tenancy in tenancies.values()} == {share}
        assert max(len(tenancy.tokens) for tenancy in tenancies.values()) <= share
        assert sorted(held) == list(range(16))

    async def test_a_newcomer_takes_nothing_that_is_leased(self, harness: StoreHarness) -> None:
        """It waits until the others give back."""
        await beat(harness, "one")

        assert (await beat(harness, "two")).tokens == {}
        assert (await beat(harness, "one")).share == 8

    async def test_released_slots_are_free_and_only_those(self, harness: StoreHarness) -> None:
        """The rest keeps its tokens."""
        before = (await beat(harness, "one")).tokens
        await give_back(harness, "one", 3, 5)

        assert sorted((await beat(harness, "two")).tokens) == [3, 5]
        assert (await beat(harness, "one")).tokens == {slot: before[slot] for slot in before if slot not in {3, 5}}

    async def test_releasing_what_another_holds_leaves_it_alone(self, harness: StoreHarness) -> None:
        """A late release by an earlier owner does no harm."""
        tenancy = await beat(harness, "one")
        await give_back(harness, "two", *range(16))

        assert await beat(harness, "one") == tenancy
        assert (await beat(harness, "two")).tokens == {}

    async def test_who_leaves_frees_its_slots_and_is_not_counted(self, harness: StoreHarness) -> None:
        """The others need not wait for an expiry."""
        await settle_shares(harness, "one", "two")
        await leave(harness, "one")

        tenancy = await beat(harness, "two")

        assert (len(tenancy.tokens), tenancy.share) == (16, 16)

    async def test_leaving_twice_or_unknown_is_harmless(self, harness: StoreHarness) -> None:
        """Leaving is what one does on the way out."""
        tenancy = await beat(harness, "one")
        await leave(harness, "stranger")
        await leave(harness, "stranger")

        assert await beat(harness, "one") == tenancy

    async def test_an_expired_lease_is_taken_over_with_a_higher_token(self, harness: StoreHarness) -> None:
        """By the database's clock, and not before the time."""
        before = (await beat(harness, "one", BRIEF)).tokens

        async def take() -> dict[int, int] | None:
            tokens = dict((await beat(harness, "two")).tokens)
            return tokens if len(tokens) == len(before) else None  # each by the clock of the moment it was written

        after = await wait_until(take)

        assert after is not None
        assert sorted(after) == sorted(before)
        assert all(after[slot] > before[slot] for slot in before)
        assert (await beat(harness, "one")).tokens == {}

    async def test_a_renewal_prolongs_the_lease(self, harness: StoreHarness) -> None:
        """The old time does not count any more."""
        await beat(harness, "one", BRIEF)
        tenancy = await beat(harness, "one", TERMS)
        await let_expire(harness)

        assert (await beat(harness, "two")).tokens == {}
        assert (await beat(harness, "one")).tokens == tenancy.tokens

    async def test_a_silent_owner_is_not_counted_any_more(self, harness: StoreHarness) -> None:
        """Its share goes to the others."""
        await beat(harness, "silent", BRIEF)

        async def whole_share() -> bool:
            return (await beat(harness, "one")).share == 16

        await wait_until(whole_share)

    async def test_tokens_only_grow_and_are_unique_over_slots(self, harness: StoreHarness) -> None:
        """A token names one tenancy of one slot."""
        given: list[int] = []
        last: dict[int, int] = {}
        for turn in range(5):
            tokens = (await beat(harness, f"owner-{turn}")).tokens
            assert all(token > last.get(slot, -1) for slot, token in tokens.items())
            last = dict(tokens)
            given += tokens.values()
            await leave(harness, f"owner-{turn}")

        assert len(given) == len(set(given)) == 5 * 16

    async def test_a_slot_taken_back_has_a_new_token(self, harness: StoreHarness) -> None:
        """Even where nobody held it in between."""
        before = (await beat(harness, "one")).tokens[7]
        await give_back(harness, "one", 7)

        assert (await beat(harness, "one")).tokens[7] > before

    async def test_scopes_are_leased_apart(self, harness: StoreHarness) -> None:
        """Owners of one scope take nothing from another's."""
        elsewhere = LeaseTerms(scope="queue:shop/one", slots=4, ttl=LONG)
        await beat(harness, "one")

        assert len((await beat(harness, "two", elsewhere)).tokens) == 4
        assert (await beat(harness, "one")).share == 16

    async def test_a_scope_without_slots_only_counts_its_members(self, harness: StoreHarness) -> None:
        """Such as the list of live workers."""
        workers = LeaseTerms(scope="workers", slots=0, ttl=LONG)

        assert await beat(harness, "one", workers) == Tenancy(tokens={}, share=0)
        assert await beat(harness, "one", workers) == Tenancy(tokens={}, share=0)

    async def test_an_owner_of_the_whole_keeps_it_from_all_others(self, harness: StoreHarness) -> None:
        """Whatever they want, and under the tokens that it took."""
        whole = await beat(harness, "whole", WHOLE)

        assert (sorted(whole.tokens), whole.share) == (list(range(16)), 16)
        assert (await beat(harness, "part")).tokens == {}
        assert (await beat(harness, "second whole", WHOLE)).tokens == {}
        assert await beat(harness, "whole", WHOLE) == whole

    async def test_who_wants_the_whole_takes_nothing_and_claims_no_share_while_others_hold_some(
        self, harness: StoreHarness
    ) -> None:
        """Slots that it could not work on would otherwise wait with it."""
        await beat(harness, "part")
        await give_back(harness, "part", *range(15))

        assert (await beat(harness, "whole", WHOLE)).tokens == {}
        assert (await beat(harness, "part")).share == 16
        assert len((await beat(harness, "part")).tokens) == 16

    async def test_the_whole_is_taken_once_the_last_owner_of_a_part_leaves(self, harness: StoreHarness) -> None:
        """With tokens above all that were there before."""
        before = await beat(harness, "part")
        await beat(harness, "whole", WHOLE)
        await leave(harness, "part")

        whole = await beat(harness, "whole", WHOLE)

        assert len(whole.tokens) == 16
        assert all(whole.tokens[slot] > before.tokens[slot] for slot in range(16))

    async def test_an_owner_of_the_whole_that_lost_some_gives_up_the_rest(self, harness: StoreHarness) -> None:
        """It is of no use to it, and others can work on it."""
        await beat(harness, "whole", WHOLE)
        await give_back(harness, "whole", 3)
        await settle_shares(harness, "part")

        assert (await beat(harness, "whole", WHOLE)).tokens == {}
        assert len((await beat(harness, "part")).tokens) == 16

    async def test_a_heartbeat_that_is_rolled_back_took_nothing(self, harness: StoreHarness) -> None:
        """Leases are taken by the commit."""
        async with rolled_back(harness) as tx:
            await tx.run(harness.leases.heartbeat(TERMS, "one"))

        tenancy = await beat(harness, "two")

        assert (len(tenancy.tokens), tenancy.share) == (16, 16)

    async def test_a_fence_holds_for_the_owner_of_now_and_for_no_earlier_one(self, harness: StoreHarness) -> None:
        """A token that was taken over proves nothing, even when its owner has the slot again."""
        first = await beat(harness, "one", WHOLE)
        await harness.source.run(harness.leases.fence(WHOLE, first.tokens))
        await leave(harness, "one")
        second = await beat(harness, "two", WHOLE)

        await harness.source.run(harness.leases.fence(WHOLE, second.tokens))
        with pytest.raises(LeaseLostError):
            await harness.source.run(harness.leases.fence(WHOLE, first.tokens))
        await leave(harness, "two")
        await beat(harness, "one", WHOLE)
        with pytest.raises(LeaseLostError):
            await harness.source.run(harness.leases.fence(WHOLE, first.tokens))

    async def test_nobody_takes_over_while_a_transaction_is_fenced(self, harness: StoreHarness) -> None:
        """Its other writes depend on it; who wants to is told so, or waits."""
        if not harness.concurrent_writers:
            return
        tenancy = await beat(harness, "one", WHOLE_BRIEF)
        await let_expire(harness)
        async with harness.source.begin() as tx:
            await tx.run(harness.leases.fence(WHOLE_BRIEF, tenancy.tokens))
            with suppress(TimeoutError):
                async with asyncio.timeout(SOON.total_seconds()):
                    assert (await beat(harness, "two", WHOLE_BRIEF)).tokens == {}

        assert len((await beat(harness, "two", WHOLE_BRIEF)).tokens) == WHOLE_BRIEF.slots

    async def test_eight_owners_at_once_never_share_a_slot(self, harness: StoreHarness) -> None:
        """However their heartbeats and releases interleave, each slot has one owner and each token one slot."""
        holders: dict[int, str] = {}

        async def live(owner: str) -> None:
            for _ in range(6):
                tenancy = await beat(harness, owner)
                for slot in tenancy.tokens:
                    assert holders.setdefault(slot, owner) == owner
                surplus = sorted(tenancy.tokens)[tenancy.share :]
                for slot in surplus:
                    del holders[slot]
                if surplus:
                    await give_back(harness, owner, *surplus)

        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(live(f"owner-{number}"))

        tenancies = await settle_shares(harness, *(f"owner-{number}" for number in range(8)))
        assert sorted(slot for tenancy in tenancies.values() for slot in tenancy.tokens) == list(range(16))
        assert [len(tenancy.tokens) for tenancy in tenancies.values()] == [2] * 8

    async def test_takers_of_an_expired_slot_get_it_once(self, harness: StoreHarness) -> None:
        """The second does not take what the first has taken and not yet committed."""
        await beat(harness, "dead", BRIEF)
        await let_expire(harness)

        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            first = await tx.run(harness.leases.heartbeat(TERMS, "first"))
            second = tasks.create_task(beat(harness, "second"))
            await asyncio.wait({second}, timeout=0.05)

        assert len(first.tokens) == 16
        assert second.result().tokens == {}
