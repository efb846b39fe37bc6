"""What every store keeps of sagas: those at work, what is asked about them, participations, semantic locks."""

from pillarbox.testing.contracts import (
    ParticipationStoreContract,
    SagaArchiveContract,
    SagaLockStoreContract,
    SagaStoreContract,
)


class TestSagaStore(SagaStoreContract):
    """See the contract."""


class TestSagaArchive(SagaArchiveContract):
    """See the contract."""


class TestParticipationStore(ParticipationStoreContract):
    """See the contract."""


class TestSagaLockStore(SagaLockStoreContract):
    """See the contract."""
