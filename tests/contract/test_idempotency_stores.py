"""The inbox, the attempts, the claims and the calls of every store keep their contracts."""

from pillarbox.testing.contracts import (
    AttemptStoreContract,
    CallStoreContract,
    ClaimStoreContract,
    InboxStoreContract,
)


class TestInboxStore(InboxStoreContract):
    """See the contract."""


class TestAttemptStore(AttemptStoreContract):
    """See the contract."""


class TestClaimStore(ClaimStoreContract):
    """See the contract."""


class TestCallStore(CallStoreContract):
    """See the contract."""
