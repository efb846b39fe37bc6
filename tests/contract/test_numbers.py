"""Every store keeps the contracts of numbered messages."""

from pillarbox.testing.contracts import KeptContract, KeyNumbersContract, PositionsContract


class TestKeyNumbers(KeyNumbersContract):
    """See the contract."""


class TestPositions(PositionsContract):
    """See the contract."""


class TestKept(KeptContract):
    """See the contract."""
