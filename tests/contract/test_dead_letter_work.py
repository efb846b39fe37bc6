"""What operators do about dead letters and held keys keeps its contracts in every store."""

from pillarbox.testing.contracts import (
    ActStoreContract,
    DeadLetterEditsContract,
    DeadLetterReviewContract,
    HoldDecisionsContract,
    ReplayRunStoreContract,
)


class TestDeadLetterReview(DeadLetterReviewContract):
    """See the contract."""


class TestDeadLetterEdits(DeadLetterEditsContract):
    """See the contract."""


class TestReplayRuns(ReplayRunStoreContract):
    """See the contract."""


class TestHoldDecisions(HoldDecisionsContract):
    """See the contract."""


class TestActs(ActStoreContract):
    """See the contract."""
