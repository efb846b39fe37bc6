"""Every store keeps, purges and republishes published records as the contract says."""

from pillarbox.testing.contracts import PublishedRecordsContract


class TestPublishedRecords(PublishedRecordsContract):
    """See the contract."""
