"""The ports through which sagas are kept and found."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple, Protocol

import msgspec

from pillarbox.idempotency.fitting import fitting
from pillarbox.saga.journal import SagaStatus
from pillarbox.transaction import Program


class SagaKey(NamedTuple):
    """Which saga it is: the identity of its definition, and the id it was started with."""

    saga: str
    saga_id: str


def identity_of(key: SagaKey) -> str:
    """Return ``<service>/<saga>:<id>``, with a digest for an id that would not fit into a column."""
    whole = f"{key.saga}:{key.saga_id}"
    stored = fitting(whole)
    return whole if stored == whole else f"{key.saga}:{stored}"


class NewSaga(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A saga to be started.

    Attributes:
        version: of the definition.
        state: as text: what the codec makes of it, in base64 where that is no text.
        journal: as text.
        correlation_id: what all its messages share.
    """

    key: SagaKey
    service: str
    version: int
    state: str
    content_type: str
    journal: str
    correlation_id: str


class SagaRow(msgspec.Struct, kw_only=True, gc=False):
    """A saga as it stands in the database, locked.

    Attributes:
        serial: how often it was changed.
        now_us: the database's clock when it was read.
    """

    key: SagaKey
    version: int
    state: str
    content_type: str
    journal: str
    correlation_id: str
    serial: int
    now_us: int


class ChangedSaga(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What becomes of a locked saga.

    Attributes:
        version: of the definition whose state it has now.
        steps: the steps that are under way, for people.
        due_us: when to look at it again; ``None`` for never.
    """

    key: SagaKey
    version: int
    status: SagaStatus
    steps: str
    state: str
    journal: str
    due_us: int | None


class SagaFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which sagas are meant; what is not said excludes none.

    Attributes:
        saga: the name of the definition.
        version: of the definition.
        status: where they stand.
        step: a step that is under way.
        older_than: started at least so long ago.
        text: occurs in the state or in the history.
    """

    saga: str | None = None
    version: int | None = None
    status: SagaStatus | None = None
    step: str | None = None
    older_than: timedelta | None = None
    text: str | None = None


class SagaSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One saga in a list.

    Attributes:
        steps: what is under way.
        due_at: when it is looked at next.
    """

    saga: str
    saga_id: str
    version: int
    status: SagaStatus
    steps: str
    started_at: datetime
    changed_at: datetime
    due_at: datetime | None


class SagaDetails(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept of one saga."""

    summary: SagaSummary
    state: str
    content_type: str
    journal: str
    correlation_id: str
    serial: int


class SagaCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many sagas of one definition stand at one status, and since when the oldest has waited there."""

    saga: str
    version: int
    status: SagaStatus
    count: int
    oldest: timedelta


class SagasInNeed(msgspec.Struct, frozen=True, kw_only=True):
    """How many sagas wait for an operator's verb, and for how long the oldest of them has; ``None`` if none does."""

    count: int
    oldest_for: timedelta | None


class OverdueSagas(msgspec.Struct, frozen=True, kw_only=True):
    """For how long nobody has looked at the saga of one service that was due first."""

    service: str
    oldest_for: timedelta


NONE_POSTPONED: Mapping[SagaKey, timedelta] = MappingProxyType({})


class SagaStore(Protocol):
    """The instances at work; a row that is read here is locked until the transaction ends.

    Every implementation must pass ``pillarbox.testing.contracts.SagaStoreContract``.
    """

    @abstractmethod
    def start(self, sagas: Sequence[NewSaga]) -> Program[frozenset[SagaKey]]:
        """Insert those whose keys are new, due at once; return their keys. A concurrent start is waited for."""

    @abstractmethod
    def lock(self, keys: Collection[SagaKey]) -> Program[Sequence[SagaRow]]:
        """Lock those of ``keys`` that exist, in sorted order, and return them; whoever has one is waited for."""

    @abstractmethod
    def due(self, service: str, definitions: Sequence[str], *, limit: int) -> Program[Sequence[SagaRow]]:
        """Lock up to ``limit`` that are due, the longest due first, and return them; what others have is left out."""

    @abstractmethod
    def save(
        self, changed: Sequence[ChangedSaga], *, postponed: Mapping[SagaKey, timedelta] = NONE_POSTPONED
    ) -> Program[None]:
        """Write what has become of locked sagas; each is one serial number further.

        Args:
            changed: what is written.
            postponed: other locked sagas, and after how long to look at them again; all else of them stays as it is.
        """

    @abstractmethod
    def save_unlocked(self, changed: ChangedSaga, *, serial: int) -> Program[int | None] | None:
        """Write, in a single statement, what becomes of a saga that nobody has changed since it had ``serial``.

        Returns:
            The database's clock; ``None`` if it was changed, or is gone. ``None`` at once where one statement cannot.
        """

    @abstractmethod
    def next_due(self, service: str, definitions: Sequence[str]) -> Program[timedelta | None]:
        """Return, in a single statement, how long until the next is due; not above zero if one is, ``None`` if none."""

    @abstractmethod
    def purge(self, service: str, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove up to ``limit`` that ended, completed or compensated, longer ago than that; return how many."""


class SagaArchive(Protocol):
    """What people and checks ask about sagas; locks nothing.

    Every implementation must pass ``pillarbox.testing.contracts.SagaArchiveContract``.
    """

    @abstractmethod
    def find(self, wanted: SagaFilter, *, limit: int) -> Program[Sequence[SagaSummary]]:
        """Return up to ``limit`` that are meant, those changed last first."""

    @abstractmethod
    def get(self, saga_id: str, *, saga: str | None = None) -> Program[Sequence[SagaDetails]]:
        """Return those of the id: of one definition, or of any."""

    @abstractmethod
    def counts(self) -> Program[Sequence[SagaCount]]:
        """Count the sagas by definition, version and status."""

    @abstractmethod
    def in_need(self) -> Program[SagasInNeed]:
        """Count, in a single statement, the sagas of all services that need attention."""

    @abstractmethod
    def overdue(self) -> Program[Sequence[OverdueSagas]]:
        """Return, in a single statement, the services of which a saga is due, by name.

        Costs the same however many there are.
        """

    @abstractmethod
    def note_definitions(self, graphs: Mapping[tuple[str, int], str]) -> Program[None]:
        """Keep the graphs of definitions (by identity and version) whose instances are about to run."""

    @abstractmethod
    def definitions(self) -> Program[Mapping[tuple[str, int], str]]:
        """Return the graphs that instances which have not ended were run by last."""
