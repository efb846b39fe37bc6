"""The rules of the inbox, and of the attempts under way."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta

import pytest

from pillarbox.deadletter import Burial, DeadLetterFilter, DeadLetterState
from pillarbox.holding import HeldMessage, HeldState
from pillarbox.idempotency import Suspect, Trial
from pillarbox.lease import LeaseTerms
from pillarbox.testing.contracts.harness import (
    ANY_AGE,
    LONG,
    SHORT,
    StoreHarness,
    let_expire,
    make_message,
    needs_concurrent_writers,
    rolled_back,
)
from pillarbox.testing.waiting import assert_blocked, wait_until

CONSUMER = "shop/reserve-stock"
DIFFERENT = ["m1", "M1", "m1 ", " m1", "\u00e9", "e\u0301", "ß", "ss", "m1\u200b"]
"""Ids that a folding or trimming collation would take for one another."""
ODD, EVEN = ([f"m{number}" for number in range(first, 20, 2)] for first in (1, 0))


async def record(harness: StoreHarness, *ids: str, consumer: str = CONSUMER) -> Collection[str]:
    """Record ``ids`` as processed in a committed transaction."""
    return set(await harness.source.run(harness.inbox.record(consumer, ids)))


class InboxStoreContract:
    """What every ``InboxStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_an_id_is_new_once(self, harness: StoreHarness) -> None:
        """The second time it is known."""
        assert await record(harness, "m1", "m2") == {"m1", "m2"}
        assert await record(harness, "m2", "m3") == {"m3"}
        assert await record(harness, "m1", "m2", "m3") == set()

    async def test_an_id_given_twice_is_new_once(self, harness: StoreHarness) -> None:
        """A run may contain two copies."""
        assert await record(harness, "m1", "m1") == {"m1"}

    async def test_recording_nothing_finds_nothing_new(self, harness: StoreHarness) -> None:
        """An empty list is a list."""
        assert await record(harness) == set()

    async def test_an_id_is_new_to_each_consumer(self, harness: StoreHarness) -> None:
        """Consumers process the same event, each for itself."""
        assert await record(harness, "m1", consumer="shop/one") == {"m1"}
        assert await record(harness, "m1", consumer="shop/two") == {"m1"}

    async def test_ids_that_only_look_alike_are_different(self, harness: StoreHarness) -> None:
        """In case, trailing space, or composition."""
        assert await record(harness, *DIFFERENT) == set(DIFFERENT)
        assert await record(harness, *DIFFERENT) == set()

    async def test_consumers_that_only_look_alike_are_different(self, harness: StoreHarness) -> None:
        """Their names are compared byte by byte."""
        assert [await record(harness, "m1", consumer=name) for name in DIFFERENT] == [{"m1"}] * len(DIFFERENT)

    async def test_a_rolled_back_id_is_new_again(self, harness: StoreHarness) -> None:
        """Only processed ids suppress a redelivery."""
        async with rolled_back(harness) as tx:
            assert set(await tx.run(harness.inbox.record(CONSUMER, ["m1"]))) == {"m1"}

        assert await record(harness, "m1") == {"m1"}

    async def test_two_thousand_ids_are_recorded_at_once(self, harness: StoreHarness) -> None:
        """A run is one statement."""
        ids = [f"m{number}" for number in range(2000)]

        assert await record(harness, *ids) == set(ids)
        assert await record(harness, *ids) == set()

    async def test_a_concurrent_duplicate_waits_and_is_not_new_if_the_first_commits(
        self, harness: StoreHarness
    ) -> None:
        """The second transaction learns the fate of the first."""
        async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
            assert set(await tx.run(harness.inbox.record(CONSUMER, ["m1", "m2"]))) == {"m1", "m2"}
            duplicate = tasks.create_task(record(harness, "m2", "m3"))
            await assert_blocked(duplicate)

        assert duplicate.result() == {"m3"}

    async def test_a_concurrent_duplicate_is_new_if_the_first_rolls_back(self, harness: StoreHarness) -> None:
        """Nothing is suppressed by what never happened."""
        async with asyncio.TaskGroup() as tasks, rolled_back(harness) as tx:
            await tx.run(harness.inbox.record(CONSUMER, ["m1"]))
            duplicate = tasks.create_task(record(harness, "m1"))
            await assert_blocked(duplicate)

        assert duplicate.result() == {"m1"}

    async def test_of_many_concurrent_duplicates_one_is_new(self, harness: StoreHarness) -> None:
        """Four runs with the same ids in opposite orders: no deadlock, each id new once."""
        ids = [f"m{number}" for number in range(1000)]

        async with asyncio.TaskGroup() as tasks:
            runs = [tasks.create_task(record(harness, *ids[:: 1 if turn % 2 else -1])) for turn in range(4)]

        found = [identity for run in runs for identity in run.result()]
        assert sorted(found) == sorted(ids)

    async def test_a_forgotten_id_is_new_again(self, harness: StoreHarness) -> None:
        """In the same transaction and after it; the others stay."""
        async with harness.source.begin() as tx:
            await tx.run(harness.inbox.record(CONSUMER, ["m1", "m2"]))
            await tx.run(harness.inbox.forget(CONSUMER, ["m1"]))
            assert set(await tx.run(harness.inbox.record(CONSUMER, ["m1"]))) == {"m1"}
            await tx.run(harness.inbox.forget(CONSUMER, ["m1"]))

        assert await record(harness, "m1", "m2") == {"m1"}

    async def test_forgetting_touches_no_other_consumer(self, harness: StoreHarness) -> None:
        """Each has its own ids."""
        await record(harness, "m1", consumer="shop/two")
        await harness.source.run(harness.inbox.forget(CONSUMER, ["m1"]))

        assert await record(harness, "m1", consumer="shop/two") == set()

    async def test_runs_of_different_ids_do_not_wait_for_each_other(self, harness: StoreHarness) -> None:
        """However few rows there are: nothing is locked but what is named."""
        needs_concurrent_writers(harness)
        async with harness.source.begin() as one, harness.source.begin() as other:
            for tx, ids in ((one, ODD), (other, EVEN)):
                await tx.run(harness.inbox.record(CONSUMER, ids))
            for tx, ids in ((one, ODD), (other, EVEN)):
                await tx.run(harness.inbox.forget(CONSUMER, ids))

        assert await record(harness, *ODD, *EVEN) == {*ODD, *EVEN}

    async def test_a_purge_leaves_what_is_younger(self, harness: StoreHarness) -> None:
        """Retention covers every way on which a message may come again."""
        await record(harness, "m1")

        assert await harness.source.run(harness.inbox.purge(LONG, limit=100)) == 0
        assert await record(harness, "m1") == set()

    async def test_a_purge_removes_what_is_older(self, harness: StoreHarness) -> None:
        """Of every consumer."""
        await record(harness, "m1")
        await record(harness, "m1", consumer="shop/two")

        assert await purge_all(harness, 2, limit=100) == [2]
        assert await record(harness, "m1") == {"m1"}

    async def test_a_purge_removes_the_oldest_up_to_its_limit(self, harness: StoreHarness) -> None:
        """Also where many ids were processed at the same instant."""
        await record(harness, *(f"m{number}" for number in range(10)))

        assert await purge_all(harness, 10, limit=4) == [4, 4, 2]

    async def test_a_purge_leaves_what_waits_in_holding(self, harness: StoreHarness) -> None:
        """A copy that is held must be known when its turn comes."""
        await record(harness, "m1", "m2")
        await record(harness, "m1", consumer="shop/two")
        waiting = HeldMessage(hold_key="k:k", message=make_message("m1"), state=HeldState.HELD)
        await harness.source.run(harness.holding.append(CONSUMER, [waiting]))

        await purge_all(harness, 2, limit=100)

        assert await record(harness, "m1", "m2") == {"m2"}

    async def test_a_purge_leaves_what_may_be_replayed(self, harness: StoreHarness) -> None:
        """A dead letter's id stays until somebody has decided."""
        await record(harness, "m1", "m2")
        await harness.source.run(harness.dead_letters.bury(CONSUMER, [burial("m1"), burial("m2")]))
        letters = await harness.source.run(harness.dead_letters.find(DeadLetterFilter(), after=0, limit=10))
        replaying, discarded = (letter.id for letter in letters)
        await harness.source.run(harness.dead_letters.move(replaying, to=DeadLetterState.REPLAYING))
        await harness.source.run(harness.dead_letters.move(discarded, to=DeadLetterState.DISCARDED))

        await purge_all(harness, 1, limit=100)

        assert await record(harness, "m1", "m2") == {"m2"}

    async def test_a_purge_waits_for_nobody(self, harness: StoreHarness) -> None:
        """What another purge is at is left to it; the table is large enough for its indexes to be used."""
        needs_concurrent_writers(harness)
        await record(harness, *(f"m{number}" for number in range(3000)))
        await let_expire(harness)

        async with harness.source.begin() as tx:
            assert await tx.run(harness.inbox.purge(ANY_AGE, limit=40)) == 40
            assert await harness.source.run(harness.inbox.purge(ANY_AGE, limit=40)) == 40


def burial(identity: str) -> Burial:
    """Return a dead message."""
    return Burial(
        hold_key=f"m:{identity}",
        message=make_message(identity),
        reason="permanent",
        attempts=1,
        history=(),
        stack="",
        fingerprint="cause",
    )


async def purge_all(harness: StoreHarness, expected: int, *, limit: int) -> list[int]:
    """Purge until ``expected`` ids are gone; return what each purge that found any removed."""
    removed: list[int] = []

    async def purge_more() -> bool:
        count = await harness.source.run(harness.inbox.purge(ANY_AGE, limit=limit))
        removed.extend([count] if count else [])
        return sum(removed) >= expected

    await let_expire(harness)
    await wait_until(purge_more)
    return removed


class AttemptStoreContract:
    """What every ``AttemptStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_a_message_that_is_tried_first_is_no_suspect(self, harness: StoreHarness) -> None:
        """There is no trace of an earlier attempt."""
        await come_alive(harness, "one")

        assert await start(harness, "m1", "m2", worker="one") == {}

    async def test_a_message_of_a_dead_worker_is_a_suspect(self, harness: StoreHarness) -> None:
        """Its process ended before the outcome was durable."""
        await come_alive(harness, "dead")
        await start(harness, "m1", "m2", worker="dead")
        await die(harness, "dead")
        await come_alive(harness, "one")

        found = await start(harness, "m2", "m3", worker="one")

        assert found == {"m2": Suspect(message_id="m2", crashes=0)}

    async def test_a_worker_that_fell_silent_is_dead(self, harness: StoreHarness) -> None:
        """It cannot say so itself."""
        await come_alive(harness, "silent", ttl=SHORT)
        await start(harness, "m1", worker="silent")
        await come_alive(harness, "one")

        async def find() -> bool:
            return "m1" in await start(harness, "m1", worker="one")

        await wait_until(find)

    async def test_a_message_of_a_live_worker_is_no_suspect(self, harness: StoreHarness) -> None:
        """It is only a duplicate; the inbox deals with it."""
        await come_alive(harness, "other")
        await come_alive(harness, "one")
        await start(harness, "m1", worker="other")

        assert await start(harness, "m1", worker="one") == {}

    async def test_a_worker_s_own_earlier_attempt_is_no_suspect(self, harness: StoreHarness) -> None:
        """Its run was rolled back and it tries again."""
        await start(harness, "m1", worker="one")

        assert await start(harness, "m1", worker="one") == {}

    async def test_a_cleared_message_is_no_suspect(self, harness: StoreHarness) -> None:
        """Its outcome is durable."""
        await start(harness, "m1", "m2", worker="dead")
        await harness.source.run(harness.attempts.clear(CONSUMER, ["m1"]))

        assert set(await start(harness, "m1", "m2", worker="one")) == {"m2"}

    async def test_a_clear_that_is_rolled_back_leaves_the_trace(self, harness: StoreHarness) -> None:
        """The outcome was not durable."""
        await start(harness, "m1", worker="dead")
        async with rolled_back(harness) as tx:
            await tx.run(harness.attempts.clear(CONSUMER, ["m1"]))

        assert set(await start(harness, "m1", worker="one")) == {"m1"}

    async def test_attempts_of_another_consumer_are_not_touched(self, harness: StoreHarness) -> None:
        """Each consumer has its own attempts at a message."""
        await harness.source.run(harness.attempts.start("shop/other", ["m1"], worker="dead"))

        assert await start(harness, "m1", worker="one") == {}
        await harness.source.run(harness.attempts.clear(CONSUMER, ["m1"]))
        assert set(await harness.source.run(harness.attempts.start("shop/other", ["m1"], worker="one"))) == {"m1"}

    async def test_attempts_at_different_messages_do_not_wait_for_each_other(self, harness: StoreHarness) -> None:
        """However few there are: nothing is locked but what is named."""
        needs_concurrent_writers(harness)
        async with harness.source.begin() as one, harness.source.begin() as other:
            both = ((one, "one", ODD), (other, "other", EVEN))
            for tx, worker, ids in both:
                await tx.run(harness.attempts.start(CONSUMER, ids, worker=worker))
            for tx, worker, ids in both:
                await tx.run(harness.attempts.start_among_few(CONSUMER, ids, worker=worker))
            for tx, _, ids in both:
                await tx.run(harness.attempts.clear(CONSUMER, ids))

        assert await start(harness, *ODD, *EVEN, worker="third") == {}

    async def test_a_crash_among_others_is_not_counted(self, harness: StoreHarness) -> None:
        """Any of them may have been the killer."""
        await start(harness, "m1", "m2", worker="dead")
        await come_alive(harness, "one")

        assert await start_alone(harness, "m1", worker="one") == 0

    async def test_each_crash_while_alone_is_counted(self, harness: StoreHarness) -> None:
        """These are the message's own."""
        counted: list[int] = []
        for number in range(4):
            await come_alive(harness, f"w{number}")
            counted.append(await start_alone(harness, "m1", worker=f"w{number}"))
            await die(harness, f"w{number}")

        assert counted == [0, 1, 2, 3]

    async def test_a_counted_crash_is_seen_by_the_next_run(self, harness: StoreHarness) -> None:
        """A suspect carries its crashes."""
        await start_alone(harness, "m1", worker="w1")
        await start_alone(harness, "m1", worker="w2")

        assert await start(harness, "m1", worker="w3") == {"m1": Suspect(message_id="m1", crashes=1, trial=Trial.ALONE)}

    async def test_who_was_among_few_is_known_to_the_next_worker(self, harness: StoreHarness) -> None:
        """Then it is tried alone; a crash among few is nobody's own."""
        await start(harness, "m1", "m2", worker="w1")
        await start(harness, "m1", "m2", worker="w2")
        await harness.source.run(harness.attempts.start_among_few(CONSUMER, ["m1"], worker="w2"))

        assert await start(harness, "m1", "m2", worker="w3") == {
            "m1": Suspect(message_id="m1", crashes=0, trial=Trial.FEW),
            "m2": Suspect(message_id="m2", crashes=0, trial=Trial.RUN),
        }

    async def test_trying_alone_again_is_no_crash(self, harness: StoreHarness) -> None:
        """The same worker, or one that took over from a live one."""
        await come_alive(harness, "one")
        await come_alive(harness, "two")

        assert await start_alone(harness, "m1", worker="one") == 0
        assert await start_alone(harness, "m1", worker="one") == 0
        assert await start_alone(harness, "m1", worker="two") == 0

    async def test_a_purge_removes_what_the_dead_left_long_ago(self, harness: StoreHarness) -> None:
        """Messages that never came again; those of the living are under way."""
        await come_alive(harness, "one")
        await start(harness, "m1", worker="one")
        await start(harness, "m2", worker="dead")
        await let_expire(harness)

        assert await harness.source.run(harness.attempts.purge(LONG, limit=10)) == 0
        assert await harness.source.run(harness.attempts.purge(ANY_AGE, limit=10)) == 1
        assert await start(harness, "m1", "m2", worker="three") == {}
        await die(harness, "one")
        assert set(await start(harness, "m1", worker="three")) == {"m1"}


async def start(harness: StoreHarness, *ids: str, worker: str) -> dict[str, Suspect]:
    """Note attempts in a committed transaction."""
    return dict(await harness.source.run(harness.attempts.start(CONSUMER, ids, worker=worker)))


async def start_alone(harness: StoreHarness, identity: str, *, worker: str) -> int:
    """Note a lone attempt in a committed transaction."""
    return await harness.source.run(harness.attempts.start_alone(CONSUMER, identity, worker=worker))


async def come_alive(harness: StoreHarness, worker: str, *, ttl: timedelta = LONG) -> None:
    """Put ``worker`` on the list of the living."""
    await harness.source.run(harness.leases.heartbeat(LeaseTerms(scope="workers", slots=0, ttl=ttl), worker))


async def die(harness: StoreHarness, worker: str) -> None:
    """Take ``worker`` off the list of the living."""
    await harness.source.run(harness.leases.leave(LeaseTerms(scope="workers", slots=0, ttl=LONG), worker))
