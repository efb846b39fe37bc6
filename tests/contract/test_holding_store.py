"""The holding of every store keeps its contract."""

from pillarbox.testing.contracts import HoldingStoreContract


class TestHoldingStore(HoldingStoreContract):
    """See the contract."""
