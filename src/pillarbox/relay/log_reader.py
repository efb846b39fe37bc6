"""The ports through which a log tailing relay sees a database's log, and the place in it that the relay has reached."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

from pillarbox.outbox import OutboxStore
from pillarbox.relay.reader import Aside, PendingRecord
from pillarbox.relay.settings import RelaySettings
from pillarbox.transaction import Program, TransactionSource

if TYPE_CHECKING:
    from pillarbox.clock import Clock


class LogTransaction(msgspec.Struct, gc=False):
    """A transaction as it comes out of the log: whole, and in the order of commits.

    Attributes:
        xid: its number.
        final_lsn: where its commit stands; a database sends it again under the same number.
        committed_at: microseconds since 1970, by the database's clock.
        rows: how many records of it have come so far, those that were settled in an earlier life included.
        end_lsn: where the log goes on behind it; ``None`` until its end has come.
    """

    xid: int
    final_lsn: int
    committed_at: int
    rows: int = 0
    end_lsn: int | None = None


class LogEntry(msgspec.Struct, frozen=True):
    """A record from the log.

    Attributes:
        number: which of its transaction's records it is, counted from 1.
        transaction: ``None`` for a record that was found in the table while healing.
        in_table: there is a row of it to be removed; a table-less record exists in the log alone.
    """

    record: PendingRecord
    number: int
    transaction: LogTransaction | None
    in_table: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A replication slot as the database describes it.

    Attributes:
        confirmed_lsn: the database sends nothing that was committed before this.
        is_lost: the database has removed log that the slot still needed.
    """

    confirmed_lsn: int
    is_lost: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is found before the log is read.

    Attributes:
        system_id: which database cluster this is; a restored copy on another machine bears another one.
        timeline: grows when a standby becomes the primary.
        slot_name: the slot that this relay reads.
        slot: the slot; ``None`` when there is none.
        is_published: the log carries every insert into the outbox.
    """

    system_id: str
    timeline: int
    slot_name: str
    slot: Slot | None
    is_published: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How far the relay has come, kept in the database whose log it reads.

    Attributes:
        flushed_lsn: everything that was committed before it is settled; ``None`` while a new slot is being made.
        partial_lsn: the commit of the transaction of which ``partial_rows`` records are settled; 0 for none.
        healing_snapshot: records of the table that it sees are still to be published from there, before the log.
        has_table: every record that the log may hold has a row too.
    """

    system_id: str
    timeline: int
    slot_name: str
    flushed_lsn: int | None
    partial_lsn: int = 0
    partial_rows: int = 0
    healing_snapshot: str | None = None
    has_table: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSlot:
    """A slot just made.

    Attributes:
        starts_at: it sends what is committed from here on.
        snapshot: sees exactly what was committed before.
    """

    starts_at: int
    snapshot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """How the log of a log tailing relay fares.

    Attributes:
        slot_name: its slot.
        is_there: the slot exists and can be read on.
        is_read: a relay reads it now.
        retained_bytes: how much log the database keeps for it.
        unconfirmed_bytes: how much log was written behind what the relay confirmed.
        quiet_for: how long ago the checkpoint was last written.
    """

    slot_name: str
    is_there: bool
    is_read: bool
    retained_bytes: int
    unconfirmed_bytes: int
    quiet_for: timedelta


class LogReader(Protocol):
    """The log of one database, read by one relay at a time.

    Reading goes on beside the relay's work: what arrives is kept ready, up to a bound, and the database is told now and
    then that the reader lives.
    """

    @abstractmethod
    async def look(self) -> Outlook:
        """Return what is there; changes nothing.

        Raises:
            ConfigurationError: the database does not write such a log, or the slot's name is taken by something else.
        """

    @abstractmethod
    async def renew(
        self,
        *,
        instead_of: str | None,
        before: Callable[[], Awaitable[None]],
        meanwhile: Callable[[], Awaitable[None]],
    ) -> NewSlot:
        """Make the slot anew, dropping it and ``instead_of`` first; the publication before the slot.

        Args:
            instead_of: a slot of another name that this one replaces.
            before: awaited when both are gone, before the slot is made.
            meanwhile: awaited now and then, since making a slot waits for the transactions under way.

        Raises:
            StoreUnavailableError: somebody reads the slot, it took too long, or the database is away; the slot may be
                gone.
        """

    @abstractmethod
    async def start(self, checkpoint: Checkpoint) -> None:
        """Begin to read behind ``checkpoint``; records settled in part of a transaction are passed over.

        Raises:
            StoreUnavailableError: somebody else reads the slot, or the database is away.
            LogBrokenError: the slot does not lead on from the checkpoint.
        """

    @abstractmethod
    async def take(self, limit: int) -> Sequence[LogEntry]:
        """Return up to ``limit`` of the records that have arrived, in the order of the log.

        What the log says may be ahead of what the database shows: a commit is in the log before it is visible, and
        before a synchronous standby has it. Such records are not returned yet.

        Raises:
            LogBrokenError: the log cannot be followed any further.
            StoreUnavailableError: the connection is gone; start again.
        """

    @property
    @abstractmethod
    def passed_lsn(self) -> int | None:
        """Up to where everything has been taken; ``None`` while something waits to be taken or is incomplete."""

    @abstractmethod
    def confirm(self, lsn: int) -> None:
        """Tell the database that nothing committed before ``lsn`` is needed; the checkpoint says so already."""

    @abstractmethod
    async def close(self) -> None:
        """Stop reading and let go of the slot; ``start`` may be called again."""


class GapReason(StrEnum):
    """Why the log may lack something between the checkpoint and now."""

    SLOT_MISSING = "slot missing"
    SLOT_LOST = "slot invalidated"
    SLOT_RECREATED = "slot recreated"
    SLOT_RENAMED = "slot renamed"
    NO_CHECKPOINT = "slot without a checkpoint"
    OTHER_SYSTEM = "other database cluster"
    OTHER_TIMELINE = "other timeline"
    NOT_PUBLISHED = "publication missing or altered"
    LOG_BROKEN = "log broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGap:
    """What the log lacks that a relay was to read.

    Attributes:
        reason: why it may lack something.
        has_table: the table holds it too.
    """

    reason: GapReason
    has_table: bool


class LogCheckpoints(Protocol):
    """What a log tailing relay writes down, and the records that are still in the table."""

    @abstractmethod
    def load(self) -> Program[Checkpoint | None]:
        """Return the checkpoint; ``None`` when there is none."""

    @abstractmethod
    def save(self, scope: str, tokens: Sequence[int], checkpoint: Checkpoint) -> Program[bool]:
        """Write the checkpoint; false, with nothing written, when none of ``tokens`` is valid. A single statement."""

    @abstractmethod
    def settle(
        self,
        scope: str,
        tokens: Sequence[int],
        checkpoint: Checkpoint,
        done: Sequence[LogEntry],
        asides: Sequence[Aside],
        *,
        keep: bool,
    ) -> Program[bool]:
        """Write the checkpoint, remove the rows of ``done`` and put aside what ``asides`` names; false as ``save``.

        With ``keep``, rows that were published move to where published records are kept. A single statement when
        ``asides`` is empty and nothing is kept.
        """

    @abstractmethod
    def present(self, snapshot: str, *, after: int, limit: int) -> Program[Sequence[PendingRecord]]:
        """Return records of the table that ``snapshot`` sees, above the position ``after``, in order."""

    @abstractmethod
    def state(self) -> Program[LogState | None]:
        """Return how the log fares; any process can ask. ``None`` when no log tailing relay has worked here."""

    @abstractmethod
    def gap(self) -> Program[LogGap | None]:
        """Return why the slot does not lead on from the checkpoint; ``None`` where it does, or where it is told."""

    @abstractmethod
    def retire(self) -> Program[bool]:
        """Forget the place in the log and let the database forget its slot; return whether to try again.

        A slot that is still read is taken from its reader, whose lease has ended.
        """


class LogAccess(Protocol):
    """How the log of one database is reached."""

    @property
    @abstractmethod
    def checkpoints(self) -> LogCheckpoints:
        """What is written down about the log."""

    @property
    @abstractmethod
    def tableless(self) -> OutboxStore:
        """An outbox whose records stand in the log alone."""

    @abstractmethod
    def reader(
        self,
        *,
        source: TransactionSource,
        clock: Clock,
        settings: RelaySettings,
        is_wanted: Callable[[], bool],
        on_arrival: Callable[[], None],
    ) -> LogReader:
        """Make a reader; connects to nothing.

        Args:
            source: where statements are executed.
            clock: measures how long things take.
            settings: names and bounds.
            is_wanted: reading ends by itself when this turns false.
            on_arrival: called when records have arrived.

        Raises:
            MissingExtraError: the driver that can read a log is not installed.
        """
