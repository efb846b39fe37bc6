"""What operators look at and decide, in SQL: one adapter for each port."""

from __future__ import annotations

from pillarbox.relational.acts import RelationalActStore
from pillarbox.relational.dead_letter_edits import RelationalDeadLetterEdits
from pillarbox.relational.dead_letter_groups import RelationalDeadLetterReview
from pillarbox.relational.hold_decisions import RelationalHoldDecisions
from pillarbox.relational.replay_archive import RelationalReplayArchive
from pillarbox.relational.replay_batches import RelationalReplayBatches
from pillarbox.relational.replay_runs import RelationalReplayRuns


class RelationalOperators:
    """The adapters that only operators need."""

    def __init__(self) -> None:
        """Make them; they hold nothing."""
        self.acts = RelationalActStore()
        self.edits = RelationalDeadLetterEdits()
        self.holds = RelationalHoldDecisions()
        self.review = RelationalDeadLetterReview()
        self.archive = RelationalReplayArchive()
        self.runs = RelationalReplayRuns()
        self.batches = RelationalReplayBatches()
