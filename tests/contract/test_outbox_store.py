"""The outbox of every store keeps its contract."""

from pillarbox.testing.contracts import OutboxStoreContract


class TestOutboxStore(OutboxStoreContract):
    """See the contract."""
