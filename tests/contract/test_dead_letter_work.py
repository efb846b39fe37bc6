"""What operators do about dead letters and held keys keeps its contracts in every store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pillarbox.app.controlling import ports_of
from pillarbox.deadletter.decisions import Decisions, Order
from pillarbox.relational.dead_letters import RelationalDeadLetterStore
from pillarbox.testing.contracts import (
    ActStoreContract,
    DeadLetterEditsContract,
    DeadLetterReviewContract,
    HoldDecisionsContract,
    ReplayArchiveContract,
    ReplayRunStoreContract,
)
from pillarbox.testing.contracts.dead_letters import CONSUMER, burial, bury, find
from pillarbox.testing.contracts.harness import LONG, StoreHarness, make_message

if TYPE_CHECKING:
    from pillarbox.deadletter import DeadLetterState
    from pillarbox.deadletter.editing import DeadLetterEdits
    from pillarbox.relational.store import RelationalStore
    from pillarbox.transaction import Program


class TestDeadLetterReview(DeadLetterReviewContract):
    """See the contract."""


class TestDeadLetterEdits(DeadLetterEditsContract):
    """See the contract."""


class TestReplayRuns(ReplayRunStoreContract):
    """See the contract."""


class TestReplayArchive(ReplayArchiveContract):
    """See the contract."""


class TestHoldDecisions(HoldDecisionsContract):
    """See the contract."""


class TestActs(ActStoreContract):
    """See the contract."""


class EditedMeanwhile(RelationalDeadLetterStore):
    """Letters of which one is edited after it was read, and before it is moved."""

    def __init__(self, edits: DeadLetterEdits) -> None:
        self._edits = edits

    def move(self, letter_id: int, *, to: DeadLetterState) -> Program[bool]:
        edit = self._edits.change(letter_id, before=b"{}", after=b'{"a":2}', changes=[], by="bob", reason="mended")
        assert (yield from edit)
        return (yield from super().move(letter_id, to=to))


async def test_what_is_replayed_is_the_letter_as_it_was_edited_last(
    store: RelationalStore, harness: StoreHarness
) -> None:
    """Else the poison of before could take effect, and the letter would show the body that did not."""
    await bury(harness, burial(make_message("m1", body=b"{}")))
    (letter,) = await find(harness)
    ports = replace(ports_of(store), letters=EditedMeanwhile(store.operators.edits))

    await store.run(Decisions(ports).replay(letter, Order(by="ann"), within=None, force=False))

    await store.run(store.holding.lease_due(CONSUMER, token="t", limit=9, ttl=LONG))
    (head,) = await store.run(store.holding.heads(CONSUMER, token="t", per_key=9))
    assert head.message.body == b'{"a":2}'
