"""The gate of a run: which of its messages may be handled now, for orders that a key alone does not give."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from pillarbox.consumer.item import Item
from pillarbox.transaction import Program


class Gate(Protocol):
    """Stands before the handlers of one consumer; both methods are part of the run's transaction.

    It sees what has no hold before it, each message once, handled types and others.
    """

    @abstractmethod
    def admit(self, items: Sequence[Item], *, processed: Sequence[Item]) -> Program[Sequence[Item]]:
        """Return the items that may run, in the order in which they may; put the others aside.

        What was ``processed`` before comes again, so that nothing has to wait for it; ``items`` were not yet.

        An item may be admitted because an earlier one of the answer will have run by then: if that one has to wait,
        so has this one. An item that must never run is given a verdict and admitted, to be buried. One that there is no
        room for is marked as returned.
        """

    @abstractmethod
    def passed(self, items: Sequence[Item]) -> Program[None]:
        """Note that nothing has to wait for ``items`` any more: handled, discarded, or dead without blocking."""


class OpenGate(Gate):
    """Lets everything pass, as it came."""

    def admit(self, items: Sequence[Item], *, processed: Sequence[Item]) -> Program[Sequence[Item]]:
        """Admit all."""
        del processed
        yield from ()
        return items

    def passed(self, items: Sequence[Item]) -> Program[None]:
        """Note nothing."""
        yield from ()


OPEN = OpenGate()
