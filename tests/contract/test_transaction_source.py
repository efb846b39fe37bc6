"""Every store, as the source of transactions, keeps its contract."""

from pillarbox.testing.contracts import TransactionSourceContract


class TestTransactionSource(TransactionSourceContract):
    """See the contract."""
