"""What buries a letter and what replays others of its key and cause lock both in the same order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pillarbox.consumer.intake import Burials
from pillarbox.consumer.item import Item
from pillarbox.deadletter import GroupFilter
from pillarbox.deadletter.redaction import nothing_redacted
from pillarbox.retry import GiveUp
from pillarbox.testing.contracts.dead_letters import CONSUMER
from pillarbox.testing.contracts.harness import StoreHarness, make_message
from pillarbox.testing.contracts.replaying import create
from pillarbox.testing.waiting import assert_blocked

if TYPE_CHECKING:
    from pillarbox.relational.store import RelationalStore


def dead(message_id: str) -> Item:
    """A message of the one key that failed for the one cause."""
    return Item(
        message=make_message(message_id, "a"), hold_key="k:a", verdict=GiveUp("exhausted"), error=ValueError("no stock")
    )


async def test_neither_waits_for_what_the_other_has(store: RelationalStore, harness: StoreHarness) -> None:
    """Else the database would have to break one of them off, after a second in which the other waits."""
    if not harness.concurrent_writers:
        pytest.skip(f"{store.name} lets one transaction write at a time")
    burials = Burials(
        CONSUMER, dead_letters=harness.dead_letters, holding=harness.holding, blocks="key", redact=nothing_redacted
    )
    await harness.source.run(burials.bury([dead("m1")]))
    await create(harness, "r1")

    async def bury_another() -> None:
        async with harness.source.begin() as tx:
            await tx.run(burials.bury([dead("m2")]))

    async with asyncio.TaskGroup() as tasks, harness.source.begin() as tx:
        taken = await tx.run(harness.batches.take("r1", after=0, at_most=9))
        assert taken is not None
        await tx.run(harness.batches.hold(taken))
        burying = tasks.create_task(bury_another())
        await assert_blocked(burying)
        await tx.run(harness.batches.enqueue(taken))

    (group,) = await harness.source.run(harness.operators.review.groups(GroupFilter(), limit=9))
    assert (group.arrivals, group.dead) == (2, 1)
