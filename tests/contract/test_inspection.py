"""What operators ask is answered alike by every store."""

from pillarbox.testing.contracts import InspectionContract


class TestInspection(InspectionContract):
    """See the contract."""
