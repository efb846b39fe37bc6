"""The ports through which a polling relay sees the outbox."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from pillarbox.message import Message
from pillarbox.transaction import Program


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
    """

    slots: Sequence[int]
    in_flight: Sequence[int]
    paused: Sequence[str]
    limit: int


class SlotReader(Protocol):
    """What a polling relay sees of the outbox: the slots that it leases.

    Every implementation must pass ``pillarbox.testing.contracts.SlotReaderContract``.
    """

    @abstractmethod
    def read(self, plan: ReadPlan) -> Program[Sequence[PendingRecord]]:
        """Return the oldest pending records in position order; takes no locks and writes nothing."""

    @abstractmethod
    def settle(self, scope: str, tokens: Sequence[int], positions: Sequence[int]) -> Program[int]:
        """Remove the published records at ``positions``; return how many were removed.

        Records of slots that are no longer leased under one of ``tokens`` stay. A single statement.
        """

    @abstractmethod
    def park(self, scope: str, tokens: Sequence[int], position: int, *, reason: str) -> Program[bool]:
        """Take an unpublishable record out of the way, with its reason, and hold its key; false if not the owner."""

    @abstractmethod
    def put_behind(self, scope: str, tokens: Sequence[int], positions: Sequence[int]) -> Program[int]:
        """Move records of keys that are held, in position order, behind the parked record; return how many."""

    @abstractmethod
    def release_due(self, scope: str, tokens: Sequence[int], *, limit: int) -> Program[int]:
        """Move scheduled records of leased slots that are due into the outbox, where they take their positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What one transfer did.

    Attributes:
        moved: how many records left the outbox.
        not_ready: destinations nobody listens to; their records stayed.
        full: there may be more to move at once.
    """

    moved: int
    not_ready: Collection[str]
    full: bool


class OutboxTransfer(Protocol):
    """The shortcut where the database itself is the broker: fan-out and settlement are one transaction.

    Every implementation must pass ``pillarbox.testing.contracts.SlotReaderContract``.
    """

    @abstractmethod
    def transfer(
        self, scope: str, tokens: Sequence[int], *, slots: Sequence[int], paused: Sequence[str], limit: int
    ) -> Program[Transferred]:
        """Move the oldest pending records of ``slots`` to the consumers' queues; nothing moves for a stale token."""
