"""Semantic locks: a saga marks a thing of the business as being worked on, and others see that and wait, or refuse.

No row of the business is locked. A lock is a row of its own, taken in the transaction of a local step, and let go in
the transaction in which its saga ends. It expires, so that a saga that stands still does not hold others up for ever:
whoever goes on after that asks again whether the lock is still its own, and writes by version (``update_if_version``).
Source: Richardson, *Microservices Patterns*, 4.3, *semantic lock*.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pillarbox.errors import ConfigurationError
from pillarbox.idempotency.fitting import fitting
from pillarbox.saga.store import SagaKey
from pillarbox.transaction import AsyncTx, Program, SyncTx, adopt, adopt_sync

LOCKED_FOR = timedelta(hours=1)
FOR_EVER = timedelta(days=365_000)
"""A lock that is to last longer lasts so long: more would not fit into its column."""
LOOKS_OF_A_REFUSAL = 2
"""So many statements tell that a lock is another's; none of them leaves anything behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockHolder:
    """Who holds a lock.

    Attributes:
        saga: the identity of its definition, ``<service>/<name>``.
        saga_id: the id that it was started with; a digest, should it be very long.
        expires_in: for how long.
    """

    saga: str
    saga_id: str
    expires_in: timedelta


class ResourceLocked(Exception):  # noqa: N818  # an answer more than an error, as StepFailed is
    """Another saga holds the lock; nothing was written.

    A step that lets it through is tried again, as its ``retry=`` says, and gives up when its attempts are used up.
    One that should not wait raises ``StepFailed`` instead.

    Attributes:
        resource: what is locked.
        holder: by whom.
    """

    def __init__(self, resource: str, holder: LockHolder) -> None:
        """Name the resource and its holder."""
        super().__init__(resource, holder)
        self.resource = resource
        self.holder = holder

    def __str__(self) -> str:
        """Say who holds it, and for how long."""
        seconds = self.holder.expires_in.total_seconds()
        return f"{self.resource!r} is locked by {self.holder.saga} {self.holder.saga_id} for {seconds:.0f} s yet"


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of asking for a lock.

    Attributes:
        holder: who else has it; ``None`` where it was taken.
        was_held: it was the asker's before, and nobody else's since.
    """

    holder: LockHolder | None
    was_held: bool


class SagaLockStore(Protocol):
    """The port where semantic locks are kept; their time is over by the database's clock.

    Every implementation must pass ``pillarbox.testing.contracts.SagaLockStoreContract``.
    """

    @abstractmethod
    def take(self, owner: SagaKey, resource: str, *, expires_after: timedelta) -> Program[Taken]:
        """Take or prolong a lock that is free, expired or the owner's; who is just taking it is waited for.

        Where it is another's nothing is written, in ``LOOKS_OF_A_REFUSAL`` statements. One that is let go meanwhile is
        asked for again.
        """

    @abstractmethod
    def holder(self, resource: str) -> Program[LockHolder | None]:
        """Return, in a single statement, who holds a lock whose time is not over; locks nothing."""

    @abstractmethod
    def release(self, owners: Sequence[SagaKey]) -> Program[None]:
        """Remove, in a single statement, all locks of ``owners``."""


class SemanticLocks:
    """The semantic locks of a store, for those who meet what a saga works on."""

    def __init__(self, store: SagaLockStore) -> None:
        """Ask ``store``."""
        self._store = store

    async def holder(self, resource: str, *, tx: AsyncTx) -> LockHolder | None:
        """Return who holds the lock on ``resource``, as ``tx`` sees it; ``None`` if nobody does.

        It is an answer, not a lock: a saga may take it a moment later. Where that matters, write by version.

        Raises:
            NoTransactionError: ``tx`` has no open transaction.
        """
        return await adopt(tx).run(self._store.holder(named(resource)))

    def holder_sync(self, resource: str, *, tx: SyncTx) -> LockHolder | None:
        """Do what ``holder`` does, for a synchronous transaction."""
        return adopt_sync(tx).run(self._store.holder(named(resource)))


class OwnLocks:
    """The locks of one saga, as its steps take them."""

    __slots__ = ("_owner", "_store", "has_taken", "looks")

    def __init__(self, owner: SagaKey, store: SagaLockStore) -> None:
        """Take locks in the name of ``owner``."""
        self._owner = owner
        self._store = store
        self.has_taken = False
        self.looks = 0
        """How many statements have told of a refusal, and left nothing behind."""

    async def take(self, resource: str, expires_after: timedelta, tx: AsyncTx) -> bool:
        """Take a lock; see ``SagaContext.lock``."""
        return self._noted(resource, await adopt(tx).run(self._asked(resource, expires_after)))

    def take_sync(self, resource: str, expires_after: timedelta, tx: SyncTx) -> bool:
        """Take a lock; see ``SagaContext.lock``."""
        return self._noted(resource, adopt_sync(tx).run(self._asked(resource, expires_after)))

    def _asked(self, resource: str, expires_after: timedelta) -> Program[Taken]:
        if expires_after <= timedelta(0):
            raise ConfigurationError(f"a lock on {resource!r} lasts longer than no time, got {expires_after}")
        return self._store.take(self._owner, named(resource), expires_after=min(expires_after, FOR_EVER))

    def _noted(self, resource: str, taken: Taken) -> bool:
        if taken.holder is not None:
            self.looks += LOOKS_OF_A_REFUSAL
            raise ResourceLocked(resource, taken.holder)
        self.has_taken = True
        return taken.was_held


def named(resource: str) -> str:
    """Return what a resource is called in the store.

    Raises:
        ConfigurationError: it has no name.
    """
    if not resource:
        raise ConfigurationError("a lock is on something: name it, as in 'account:a-1'")
    return fitting(resource)
