"""The port for the batches of a replay run: each is a transaction that goes through three steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A batch of a run's letters whose turn has come.

    Attributes:
        run_id: the run.
        after: the last letter of the batch before this one.
        letters: those that are replayed, as (letter, consumer, group).
        passed: those that are passed by.
        last: the last of both.
    """

    run_id: str
    after: int
    letters: Sequence[tuple[int, str, str]]
    passed: Sequence[int]
    last: int

    @property
    def count(self) -> int:
        """How many letters were looked at."""
        return len(self.letters) + len(self.passed)

    @property
    def positions(self) -> list[int]:
        """Those that are replayed, in their order."""
        return [letter for letter, _, _ in self.letters]


class RunElsewhere(Exception):  # noqa: N818  # not an error of anybody's: the letters are another's to take
    """A run was ended meanwhile, or goes on from another letter; what was taken must be rolled back."""


class ReplayBatchStore(Protocol):
    """Batches of a replay run: their letters are taken, then their keys, and then the letters are made due.

    All three are done in one transaction. Several may be under way, each a step behind the one before, so that no step
    rests. Batches must come to ``take``, and to ``hold``, in the order of their letters; ``hold`` sees to it that they
    are committed in that order, too. Every implementation must pass
    ``pillarbox.testing.contracts.ReplayRunStoreContract``.
    """

    @abstractmethod
    def take(self, run_id: str, *, after: int, at_most: int) -> Program[Taken | None]:
        """Mark the run's next letters as being replayed.

        A letter that is not dead, or was replayed since the set was frozen, is passed by.

        Args:
            run_id: the run.
            after: the last letter of the batch before this one, which may still be on its way; before the first
                batch, where the run stood when it was looked at.
            at_most: so many letters are looked at.

        Returns:
            What ``hold`` and ``enqueue`` must be given; ``None`` if none is left, or the run is not open.
        """

    @abstractmethod
    def hold(self, taken: Taken) -> Program[None]:
        """Make the keys of the letters due, then wait until the batch before this one is committed.

        A key that the batch before has too is waited for.

        Raises:
            RunElsewhere: the run does not stand where the batch begins; roll back.
        """

    @abstractmethod
    def enqueue(self, taken: Taken) -> Program[None]:
        """Make the letters due, each at the head of its key; count them out of their groups."""
