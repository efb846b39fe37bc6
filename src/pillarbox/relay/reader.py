"""The ports through which a polling relay sees the outbox."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec

from pillarbox.message import Message
from pillarbox.relay.low_watermark import OutboxHorizon
from pillarbox.transaction import Program

Key: TypeAlias = tuple[str, str]
"""A destination and a key of it."""


class PendingRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record that waits to be published.

    A struct since one is made for every record that leaves, and made nine times as fast as a frozen dataclass.

    Attributes:
        held: an earlier record of its key is parked, so it must not be published.
    """

    position: int
    slot: int
    message: Message
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """What a pass leaves out. Every pass starts at the oldest unsettled position: late commits lie behind.

    Attributes:
        slots: the slots whose records are wanted.
        in_flight: positions that are being published or settled.
        paused: destinations that take nothing now.
        limit: how many records at most.
        first: no record below this position is wanted.
    """

    slots: Sequence[int]
    in_flight: Sequence[int]
    paused: Sequence[str]
    limit: int
    first: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A record that a relay puts out of the way, so that what is behind it in other keys can go on.

    Attributes:
        refused: why the broker will not take it; it is parked until an operator decides.
        is_behind: it only follows others of its key; neither refused nor behind means that it waits for its
            destination and opens a hold on its key.
    """

    position: int
    refused: str | None = None
    is_behind: bool = False


class SlotReader(Protocol):
    """What a polling relay sees of the outbox: the slots that it leases.

    Every implementation must pass ``pillarbox.testing.contracts.SlotReaderContract``.
    """

    @property
    @abstractmethod
    def horizon(self) -> OutboxHorizon | None:
        """How to tell what may still appear; ``None`` where reading passes over nothing that was removed."""

    @abstractmethod
    def read(self, plan: ReadPlan) -> Program[Sequence[PendingRecord]]:
        """Return the oldest pending records in position order; takes no locks and writes nothing."""

    @abstractmethod
    def settle(self, scope: str, tokens: Sequence[int], positions: Sequence[int]) -> Program[int]:
        """Remove the published records at ``positions``; return how many were removed.

        Records of slots that are no longer leased under one of ``tokens`` stay. A single statement.
        """

    @abstractmethod
    def settle_and_keep(self, scope: str, tokens: Sequence[int], positions: Sequence[int]) -> Program[int]:
        """Do as ``settle`` does, and keep what is removed among the published records, in one transaction."""

    @abstractmethod
    def put_aside(self, scope: str, tokens: Sequence[int], asides: Sequence[Aside]) -> Program[frozenset[int]]:
        """Take records out of the way and hold their keys; return the positions that were moved.

        Records of slots that are no longer leased under one of ``tokens`` stay, and so do those that only go behind
        others whose hold has ended meanwhile.
        """

    @abstractmethod
    def has_beside(self, slots: Sequence[int]) -> Program[bool]:
        """Tell whether ``slots`` have scheduled records that are due, or released ones; a single statement."""

    @abstractmethod
    def release_due(self, scope: str, tokens: Sequence[int], *, limit: int) -> Program[int]:
        """Move scheduled records of leased slots that are due into the outbox, where they take their positions."""


class HeldRecords(Protocol):
    """What a relay sees of records that were put aside: those that may be published again.

    A held key's records leave only from here, in the order of their positions; the hold ends with the last of them.
    Every implementation must pass ``pillarbox.testing.contracts.HeldRecordsContract``.
    """

    @abstractmethod
    def holds(self) -> Program[frozenset[Key]]:
        """Return the keys that are held."""

    @abstractmethod
    def read(self, *, slots: Sequence[int], paused: Sequence[str], limit: int) -> Program[Sequence[PendingRecord]]:
        """Return the oldest released records of ``slots`` in position order; takes no locks and writes nothing."""

    @abstractmethod
    def settle(
        self, scope: str, tokens: Sequence[int], positions: Sequence[int], *, keep: bool = False
    ) -> Program[int]:
        """Remove released records that were published; end the hold of a key that has none left; return how many.

        With ``keep`` they are kept among the published ones. Records of slots that are no longer leased under one of
        ``tokens`` stay.
        """

    @abstractmethod
    def park(self, scope: str, tokens: Sequence[int], position: int, *, reason: str) -> Program[bool]:
        """Park a released record again, and hold what is behind it again; false if not the owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What one transfer did.

    Attributes:
        moved: how many records left the outbox.
        reached: the destinations that they went to.
        not_ready: destinations nobody listens to; their records stayed.
        full: there may be more to move at once.
    """

    moved: int
    reached: Collection[str]
    not_ready: Collection[str]
    full: bool


class OutboxTransfer(Protocol):
    """The shortcut where the database itself is the broker: fan-out and settlement are one transaction.

    Every implementation must pass ``pillarbox.testing.contracts.SlotReaderContract``.
    """

    @abstractmethod
    def transfer(
        self,
        scope: str,
        tokens: Sequence[int],
        *,
        slots: Sequence[int],
        paused: Sequence[str],
        limit: int,
        keep: bool = False,
    ) -> Program[Transferred]:
        """Move the oldest pending records of ``slots`` to the consumers' queues; nothing moves for a stale token."""

    @abstractmethod
    def transfer_released(
        self,
        scope: str,
        tokens: Sequence[int],
        *,
        slots: Sequence[int],
        paused: Sequence[str],
        limit: int,
        keep: bool = False,
    ) -> Program[Transferred]:
        """Do the same with released records that another broker had refused, and end the holds that they leave."""
