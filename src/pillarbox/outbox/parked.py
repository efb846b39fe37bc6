"""The port through which an operator decides about records that their broker refused."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pillarbox.message import Message
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedRecord:
    """A record that waits for a decision.

    Attributes:
        position: its place in the outbox, which it keeps.
        reason: why the broker will not take it.
        behind: how many records of the same key wait behind it.
    """

    position: int
    message: Message
    reason: str
    parked_at: datetime
    behind: int


class ParkedRecords(Protocol):
    """Parked records and the keys that they hold; no relay needs to run.

    Every implementation must pass ``pillarbox.testing.contracts.ParkedRecordsContract``.
    """

    @abstractmethod
    def find(self, *, after: int, limit: int) -> Program[Sequence[ParkedRecord]]:
        """Return up to ``limit`` parked records with a position above ``after``, in the order of their positions."""

    @abstractmethod
    def release(self, message_id: str) -> Program[int | None]:
        """Let a parked record go on, and everything of its key that waits behind it.

        The key stays held until a relay has published all of it, in the order of the positions; what comes meanwhile
        goes behind it.

        Returns:
            How many records may go on; ``None`` when no such record is parked (any more).
        """

    @abstractmethod
    def skip(self, message_id: str, *, by: str, because: str) -> Program[int | None]:
        """Give up a parked record, and let what is behind it go on unless another one of its key is parked.

        The record is kept in the state ``skipped``, with who decided it and why; it is not published.

        Returns:
            How many records may go on; ``None`` when no such record is parked (any more).
        """
