"""The guard of a run: commands of sagas that must not be done any more, or were done under another id."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from pillarbox.consumer.item import Item
from pillarbox.outbox import OutboxRecord
from pillarbox.transaction import Program


class Guard(Protocol):
    """Stands between the gate and the handlers of a consumer; both methods are part of the run's transaction."""

    @abstractmethod
    def look(self, items: Sequence[Item]) -> Program[None]:
        """Mark those of ``items`` as through whose handlers are not to be called any more, and answer them."""

    @abstractmethod
    def done(self, items: Sequence[Item], records: Sequence[OutboxRecord]) -> Program[None]:
        """Remember that ``items`` were handled, and the answers among what is published."""


class OpenGuard(Guard):
    """Lets everything pass."""

    def look(self, items: Sequence[Item]) -> Program[None]:
        """Mark none."""
        yield from ()

    def done(self, items: Sequence[Item], records: Sequence[OutboxRecord]) -> Program[None]:
        """Remember nothing."""
        yield from ()


UNGUARDED = OpenGuard()
