"""What is known of dependencies is shared alike by every store."""

from pillarbox.testing.contracts import CircuitStoreContract


class TestCircuitStore(CircuitStoreContract):
    """See the contract."""
