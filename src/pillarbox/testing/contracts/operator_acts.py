"""The rules of the record of what operators did: whole, in order, and part of what it records."""

from __future__ import annotations

import pytest

from pillarbox.audit import Act
from pillarbox.testing.contracts.harness import StoreHarness, rolled_back

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
