"""The inbox, the attempts and the claims of every store keep their contracts."""

from pillarbox.testing.contracts import AttemptStoreContract, ClaimStoreContract, InboxStoreContract


class TestInboxStore(InboxStoreContract):
    """See the contract."""


class TestAttemptStore(AttemptStoreContract):
    """See the contract."""


class TestClaimStore(ClaimStoreContract):
    """See the contract."""
