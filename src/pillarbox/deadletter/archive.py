"""The port for replay runs as they are looked back on: which had a letter, and which need not be kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from pillarbox.deadletter.runs import ItemState
from pillarbox.transaction import Program


class ReplayArchive(Protocol):
    """Replay runs, looked back on.

    Every implementation must pass ``pillarbox.testing.contracts.ReplayArchiveContract``.
    """

    @abstractmethod
    def having(self, letter_id: int) -> Program[Sequence[str]]:
        """Return the ids of the runs that have replayed a letter, in the order in which they were made.

        Looks at each run that is kept, and at nothing of those that passed the letter by.
        """

    @abstractmethod
    def over(self, older_than: timedelta, *, limit: int) -> Program[Sequence[str]]:
        """Return up to ``limit`` runs that ended longer ago and none of whose letters is kept, in whatever state."""

    @abstractmethod
    def remove(self, run_id: str, *, limit: int) -> Program[Mapping[ItemState, int] | None]:
        """Forget up to ``limit`` letters of a run that has ended, and the run with the last of them.

        Returns:
            How many of them were in each state; ``None`` where there is no such run, or it is open.
        """
