"""The leases of every store keep their contract."""

from pillarbox.testing.contracts import LeaseStoreContract


class TestLeaseStore(LeaseStoreContract):
    """See the contract."""
