"""The queues of every store keep their contract."""

from pillarbox.testing.contracts import QueueStoreContract


class TestQueueStore(QueueStoreContract):
    """See the contract."""
