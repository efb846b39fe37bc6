"""The parked records of every store keep their contract."""

from pillarbox.testing.contracts import ParkedRecordsContract


class TestParkedRecords(ParkedRecordsContract):
    """See the contract."""
