"""The outbox of every store, as a polling relay sees it, keeps its contract."""

from pillarbox.testing.contracts import SlotReaderContract


class TestSlotReader(SlotReaderContract):
    """See the contract."""
