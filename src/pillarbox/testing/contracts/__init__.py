"""Contract suites: the rules of each store port as tests that any implementation can run.

Guarantee: each rule is one test, and its name states the rule.
Not promised: that a store which passes is fast, or survives what its server does not survive.
Source: the conformance suites of Watermill and River; subclass one and supply ``harness``; read harness, outbox.
"""

from pillarbox.testing.contracts.broker import BrokerContract
from pillarbox.testing.contracts.broker_harness import BrokerHarness
from pillarbox.testing.contracts.calls import CallStoreContract
from pillarbox.testing.contracts.circuits import CircuitStoreContract
from pillarbox.testing.contracts.claims import ClaimStoreContract
from pillarbox.testing.contracts.dead_letter_groups import DeadLetterEditsContract, DeadLetterReviewContract
from pillarbox.testing.contracts.dead_letters import DeadLetterStoreContract
from pillarbox.testing.contracts.flow_instances import FlowInstancesContract
from pillarbox.testing.contracts.flow_journal import FlowJournalContract, FlowParticipantsContract
from pillarbox.testing.contracts.harness import StoreHarness
from pillarbox.testing.contracts.hold_decisions import HoldDecisionsContract
from pillarbox.testing.contracts.holding import HoldingStoreContract
from pillarbox.testing.contracts.idempotency import AttemptStoreContract, InboxStoreContract
from pillarbox.testing.contracts.inspection import InspectionContract
from pillarbox.testing.contracts.kept import KeptContract
from pillarbox.testing.contracts.key_numbers import KeyNumbersContract
from pillarbox.testing.contracts.lease import LeaseStoreContract
from pillarbox.testing.contracts.operator_acts import ActStoreContract
from pillarbox.testing.contracts.outbox import OutboxStoreContract
from pillarbox.testing.contracts.parked import HeldRecordsContract, ParkedRecordsContract
from pillarbox.testing.contracts.positions import PositionsContract
from pillarbox.testing.contracts.published import PublishedRecordsContract
from pillarbox.testing.contracts.queue import QueueStoreContract
from pillarbox.testing.contracts.receiver import ReceiverContract
from pillarbox.testing.contracts.relay_marks import RelayMarksContract
from pillarbox.testing.contracts.replay_archive import ReplayArchiveContract
from pillarbox.testing.contracts.replay_runs import ReplayRunStoreContract
from pillarbox.testing.contracts.saga_archive import SagaArchiveContract
from pillarbox.testing.contracts.saga_locks import SagaLockStoreContract
from pillarbox.testing.contracts.saga_participations import ParticipationStoreContract
from pillarbox.testing.contracts.sagas import SagaStoreContract
from pillarbox.testing.contracts.sender import SenderContract
from pillarbox.testing.contracts.sequence_reader import SequenceReaderContract
from pillarbox.testing.contracts.slot_reader import SlotReaderContract
from pillarbox.testing.contracts.transaction_source import TransactionSourceContract
from pillarbox.testing.contracts.waits import WaitStoreContract

__all__ = [
    "ActStoreContract",
    "AttemptStoreContract",
    "BrokerContract",
    "BrokerHarness",
    "CallStoreContract",
    "CircuitStoreContract",
    "ClaimStoreContract",
    "DeadLetterEditsContract",
    "DeadLetterReviewContract",
    "DeadLetterStoreContract",
    "FlowInstancesContract",
    "FlowJournalContract",
    "FlowParticipantsContract",
    "HeldRecordsContract",
    "HoldDecisionsContract",
    "HoldingStoreContract",
    "InboxStoreContract",
    "InspectionContract",
    "KeptContract",
    "KeyNumbersContract",
    "LeaseStoreContract",
    "OutboxStoreContract",
    "ParkedRecordsContract",
    "ParticipationStoreContract",
    "PositionsContract",
    "PublishedRecordsContract",
    "QueueStoreContract",
    "ReceiverContract",
    "RelayMarksContract",
    "ReplayArchiveContract",
    "ReplayRunStoreContract",
    "SagaArchiveContract",
    "SagaLockStoreContract",
    "SagaStoreContract",
    "SenderContract",
    "SequenceReaderContract",
    "SlotReaderContract",
    "StoreHarness",
    "TransactionSourceContract",
    "WaitStoreContract",
]
