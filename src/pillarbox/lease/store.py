"""The port through which leases are taken, renewed and given back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from pillarbox.lease.lease import LeaseTerms, Tenancy
from pillarbox.transaction import Program


class LeaseStore(Protocol):
    """Where the slots of a scope are leased, by the database's clock.

    Every implementation must pass ``pillarbox.testing.contracts.LeaseStoreContract``.
    """

    @abstractmethod
    def heartbeat(self, terms: LeaseTerms, owner: str) -> Program[Tenancy]:
        """Join the scope, renew what ``owner`` holds and take free slots up to its fair share.

        A slot is free when nobody holds it or its lease has expired. Each taking raises the slot's token.
        """

    @abstractmethod
    def fence(self, terms: LeaseTerms, tokens: Mapping[int, int]) -> Program[None]:
        """Make sure that slots are still held under their ``tokens``; keep them so to the transaction's end.

        Raises:
            LeaseLostError: another owner has taken one of them; the transaction must be rolled back.
        """

    @abstractmethod
    def release(self, terms: LeaseTerms, owner: str, slots: Sequence[int]) -> Program[None]:
        """Give ``slots`` back; those that ``owner`` no longer holds are left alone."""

    @abstractmethod
    def leave(self, terms: LeaseTerms, owner: str) -> Program[None]:
        """Give back everything that ``owner`` holds and take it off the list of live owners."""
