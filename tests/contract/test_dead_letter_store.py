"""The dead letters of every store keep their contract."""

from pillarbox.testing.contracts import DeadLetterStoreContract


class TestDeadLetterStore(DeadLetterStoreContract):
    """See the contract."""
