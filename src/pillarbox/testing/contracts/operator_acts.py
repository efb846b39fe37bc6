"""The rules of the record of what operators did: whole, in order, and part of what it records."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pillarbox.audit import Act, Forgotten
from pillarbox.deadletter import DeadLetterFilter
from pillarbox.deadletter.runs import ReplayTerms
from pillarbox.testing.contracts.dead_letters import burial, bury, find
from pillarbox.testing.contracts.harness import ANY_AGE, LONG, StoreHarness, let_expire, make_message, rolled_back

PLAIN = Act(by="ann", what="replay", kind="dead letter", subject="7")
FULL = Act(
    by="Łukasz",
    what="release",
    kind="held key",
    subject="k:" + "ü" * 290,
    consumer="shop/reserve-stock",
    reason="the stock is counted by hand",
    details={"letters": [7, 8], "text": "ünd", "nothing": None},
)


class ActStoreContract:
    """What every ``ActStore`` keeps; subclass it and supply the fixture ``harness``."""

    pytestmark = pytest.mark.asyncio

    async def test_an_act_is_recorded_whole(self, harness: StoreHarness) -> None:
        """In the order in which acts were recorded, each with its time."""
        for act in (PLAIN, FULL):
            await harness.source.run(harness.operators.acts.record(act))

        found = await harness.source.run(harness.operators.acts.find())

        assert [one.act for one in found] == [PLAIN, FULL]
        assert found[0].id < found[1].id
        assert found[0].at <= found[1].at

    async def test_an_act_that_is_rolled_back_was_not_done(self, harness: StoreHarness) -> None:
        """The record is part of the transaction."""
        async with rolled_back(harness) as tx:
            await tx.run(harness.operators.acts.record(PLAIN))

        assert list(await harness.source.run(harness.operators.acts.find())) == []

    async def test_acts_are_found_by_what_they_were_done_to(self, harness: StoreHarness) -> None:
        """Page by page."""
        acts = [Act(by="ann", what="x", kind=kind, subject=one) for kind in ("a", "b") for one in ("1", "2", "1")]
        for act in acts:
            await harness.source.run(harness.operators.acts.record(act))

        ones = await harness.source.run(harness.operators.acts.find(kind="a", subject="1", limit=1))
        rest = await harness.source.run(harness.operators.acts.find(kind="a", subject="1", after=ones[0].id))

        assert len(ones) == len(rest) == 1
        assert len(await harness.source.run(harness.operators.acts.find(kind="b"))) == 3

    async def test_old_acts_are_purged_a_few_at_a_time(self, harness: StoreHarness) -> None:
        """Each page is looked at once; what is younger stays."""
        for _ in range(5):
            await record(harness, PLAIN)
        await let_expire(harness)
        acts = await harness.source.run(harness.operators.acts.find())

        assert await purge(harness, LONG) == Forgotten(0, until=None)
        assert await purge(harness, limit=2) == Forgotten(2, until=acts[1].id)
        assert await purge(harness, after=acts[2].id) == Forgotten(2, until=None)
        await record(harness, FULL)

        assert [one.act for one in await harness.source.run(harness.operators.acts.find())] == [PLAIN, FULL]

    async def test_acts_stay_for_as_long_as_the_letter_or_run_that_they_are_about(self, harness: StoreHarness) -> None:
        """Whatever else has the same name."""
        await bury(harness, burial(make_message("m1")))
        (letter,) = await find(harness)
        await harness.source.run(harness.operators.runs.create("r1", DeadLetterFilter(), ReplayTerms(), by="ann"))
        kept = [("dead letter", str(letter.id)), ("replay run", "r1")]
        gone = [("dead letter", str(letter.id + 1)), ("dead letter", "all"), ("replay run", "r2"), ("group", "r1")]
        for kind, subject in (*kept, *gone):
            await record(harness, Act(by="ann", what="x", kind=kind, subject=subject))
        await let_expire(harness)

        assert await purge(harness) == Forgotten(len(gone), until=None)
        found = await harness.source.run(harness.operators.acts.find())
        assert [(one.act.kind, one.act.subject) for one in found] == kept


async def record(harness: StoreHarness, act: Act) -> None:
    """Record an act in a transaction of its own."""
    await harness.source.run(harness.operators.acts.record(act))


async def purge(
    harness: StoreHarness, older_than: timedelta = ANY_AGE, *, after: int = 0, limit: int = 100
) -> Forgotten:
    """Remove old acts."""
    return await harness.source.run(harness.operators.acts.purge(older_than, after=after, limit=limit))
