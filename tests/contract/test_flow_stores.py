"""What is seen of flows, and where they stand, is kept alike by every store."""

from pillarbox.testing.contracts import FlowInstancesContract, FlowJournalContract, FlowParticipantsContract


class TestFlowInstances(FlowInstancesContract):
    """See the contract."""


class TestFlowJournal(FlowJournalContract):
    """See the contract."""


class TestFlowParticipants(FlowParticipantsContract):
    """See the contract."""
