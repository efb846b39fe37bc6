"""The port through which processes share what they know of dependencies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pillarbox.retry import Circuit
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCircuit:
    """A dependency as the store remembers it.

    Attributes:
        dependency: ``<service>/<name>``.
        needed_by: the consumers that pause while it is down.
    """

    dependency: str
    circuit: Circuit
    needed_by: tuple[str, ...]


class CircuitStore(Protocol):
    """The circuits of all dependencies, each changed by compare-and-set; times are the database's.

    Every implementation must pass ``pillarbox.testing.contracts.CircuitStoreContract``.
    """

    @abstractmethod
    def read(self, dependency: str) -> Program[Circuit]:
        """Return what is known, a closed circuit where nothing is; one statement."""

    @abstractmethod
    def change(self, dependency: str, circuit: Circuit, *, expected: int) -> Program[bool]:
        """Replace the circuit whose version is ``expected``; return whether it still was that one."""

    @abstractmethod
    def enlist(
        self, service: str, needed: Mapping[str, Sequence[str]], elsewhere: Collection[str] = ()
    ) -> Program[None]:
        """Remember which consumers need which dependencies of ``service``; forget dependencies that nobody needs.

        What consumers ``elsewhere`` need, which only other processes have, is still needed.
        """

    @abstractmethod
    def known(self) -> Program[Sequence[KnownCircuit]]:
        """Return the dependencies of every service, by name."""
