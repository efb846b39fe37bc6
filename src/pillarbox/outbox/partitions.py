"""The outbox in partitions, where the database has them: made ahead, and dropped whole."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A part of the outbox.

    Attributes:
        name: of its table.
        first: the lowest position that belongs into it.
        end: the lowest position above that does not.
        seen: the snapshot in which nothing in it was still to be published.
    """

    name: str
    first: int
    end: int
    seen: str = ""


class OutboxPartitions(Protocol):
    """Partitions of the outbox by position, and one by default for what has no other.

    Each change waits for locks for a moment only and gives up with ``ConflictError``: whoever appends to the outbox
    meanwhile never waits for long. Each is one transaction, so that a crash leaves a partition there or not there.
    """

    @abstractmethod
    def extend(self, rows: int) -> Program[bool]:
        """Make one partition of ``rows`` positions if less than one full lies ahead; return whether one was made.

        Raises:
            ConflictError: others use the outbox; try again later.
        """

    @abstractmethod
    def find_droppable(self, older_than: timedelta) -> Program[Sequence[Partition]]:
        """Return the partitions that hold nothing to be published, nor what was published within ``older_than``."""

    @abstractmethod
    def drop(self, partition: Partition) -> Program[bool]:
        """Drop what ``find_droppable`` found, unless something came into it since; return whether it was dropped.

        Raises:
            ConflictError: others use the outbox; try again later.
        """
