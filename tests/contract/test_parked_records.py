"""The parked records of every store keep their contract."""

from pillarbox.testing.contracts import HeldRecordsContract, ParkedRecordsContract


class TestParkedRecords(ParkedRecordsContract):
    """See the contract."""


class TestHeldRecords(HeldRecordsContract):
    """The harness is the store's."""
