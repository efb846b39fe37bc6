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
        """Put a parked record, and everything of its key, back where it stood in the outbox, and end the key's hold.

        All of it happens under the hold's row lock: whoever publishes sees either the hold or the whole key in order.

        Returns:
            How many records went back; ``None`` when no such record is parked (any more).
        """

    @abstractmethod
    def skip(self, message_id: str, *, by: str, because: str) -> Program[int | None]:
        """Give up a parked record, and put everything else of its key back unless another one of it is parked.

        The record is kept in the state ``skipped``, with who decided it and why; it is not published.

        Returns:
            How many records went back; ``None`` when no such record is parked (any more).
        """
