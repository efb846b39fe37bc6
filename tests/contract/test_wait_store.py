"""The waiting for causes of every store keeps its contract."""

from pillarbox.testing.contracts import WaitStoreContract


class TestWaitStore(WaitStoreContract):
    """See the contract."""
