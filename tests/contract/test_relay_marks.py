"""Every store hands its outbox from one kind of relay to another as the contract says."""

from pillarbox.testing.contracts import RelayMarksContract


class TestRelayMarks(RelayMarksContract):
    """See the contract."""
