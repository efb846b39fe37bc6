"""The ports of flows: what was seen, where each process stands, and who takes part."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from pillarbox.flow.participant import Participant
from pillarbox.flow.policy import FlowInstance
from pillarbox.flow.record import Handling, SeenMessage
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowsState:
    """How the flows of a database fare.

    Attributes:
        stuck: processes of which something did not come in time.
        oldest_for: since when the first of them is stuck.
        unwatched_for: since when a process has been due to be looked at, and nobody has looked.
    """

    stuck: int
    oldest_for: timedelta | None
    unwatched_for: timedelta | None


class Standing(NamedTuple):
    """Processes of flows as the database has them, and its clock."""

    now: datetime
    instances: Sequence[FlowInstance]


class FlowJournal(Protocol):
    """The messages that were seen, and what consumers of this database made of them.

    Every implementation must pass ``pillarbox.testing.contracts.FlowJournalContract``.
    """

    @abstractmethod
    def note(self, messages: Sequence[SeenMessage]) -> Program[None]:
        """Record what was seen, now; what is recorded already stays as it is."""

    @abstractmethod
    def messages(self, correlation_ids: Collection[str]) -> Program[Sequence[SeenMessage]]:
        """Return what was seen of these processes, first seen first."""

    @abstractmethod
    def handlings(self, message_ids: Collection[str]) -> Program[Sequence[Handling]]:
        """Return what the consumers of this database have made of these messages; trackers are left out."""

    @abstractmethod
    def put_aside(
        self, correlation_id: str, consumers: Collection[str], *, limit: int
    ) -> Program[Sequence[tuple[SeenMessage, Handling]]]:
        """Return the messages of a process that wait in the holding of ``consumers`` or are dead there.

        Looks at everything that waits and is dead there: for people who ask, not for a loop.
        """

    @abstractmethod
    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove up to ``limit`` messages that were seen longer ago; return how many."""


class FlowInstances(Protocol):
    """Where each process of a flow stands.

    Every implementation must pass ``pillarbox.testing.contracts.FlowInstancesContract``.
    """

    @abstractmethod
    def lock(self, opened: Collection[tuple[str, str]], met: Collection[tuple[str, str]]) -> Program[Standing]:
        """Lock processes, each named by its flow and correlation id, until the transaction ends.

        Args:
            opened: those that are made if they are not there.
            met: those that are left out if they are not there.
        """

    @abstractmethod
    def save(self, instances: Sequence[FlowInstance]) -> Program[None]:
        """Write processes that this transaction has locked."""

    @abstractmethod
    def due(self, flows: Collection[str], *, limit: int) -> Program[Standing]:
        """Return started processes of ``flows`` that are to be looked at, those due longest first; locks nothing."""

    @abstractmethod
    def change(self, instance: FlowInstance) -> Program[bool]:
        """Write ``instance`` if nobody has since it was read; tell whether it was written."""

    @abstractmethod
    def overdue(self, flows: Collection[str] | None, *, limit: int) -> Program[Standing]:
        """Return processes that are stuck, or due and not looked at, started first first; ``None``: of every flow."""

    @abstractmethod
    def state(self) -> Program[FlowsState]:
        """Count those that are stuck, of every flow."""

    @abstractmethod
    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove processes that ended longer ago, or never started since; return how many. Stuck ones stay."""


class FlowParticipants(Protocol):
    """The consumers of every service that shares the database, as they declare themselves.

    Every implementation must pass ``pillarbox.testing.contracts.FlowParticipantsContract``.
    """

    @abstractmethod
    def enlist(
        self, service: str, participants: Sequence[Participant], elsewhere: Collection[str] = ()
    ) -> Program[None]:
        """Write those of ``service``, and forget those of it that are gone; consumers ``elsewhere`` are not."""

    @abstractmethod
    def known(self) -> Program[Sequence[Participant]]:
        """Return all, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowPorts:
    """What flows stand on."""

    journal: FlowJournal
    instances: FlowInstances
    participants: FlowParticipants


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckFlow:
    """A process of a flow of which something did not come in time.

    Attributes:
        stuck_for: since when that is known; ``None`` where nobody has looked yet.
        missing: what did not come, a sentence each.
    """

    flow: str
    correlation_id: str
    started_at: datetime
    stuck_for: timedelta | None
    missing: tuple[str, ...]
