"""The ports that make a handling happen once in effect: the inbox, the attempts under way, the claims."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Protocol

from pillarbox.transaction import Program


class InboxStore(Protocol):
    """The ids of the messages that a consumer has processed; only these suppress a redelivery.

    Among the ids are the rows of business keys (``row_of``), which look like no message id.

    Every implementation must pass ``pillarbox.testing.contracts.InboxStoreContract``.
    """

    @abstractmethod
    def record(self, consumer: str, message_ids: Sequence[str]) -> Program[Collection[str]]:
        """Note that ``consumer`` processes ``message_ids`` in this transaction; return those not noted before.

        A concurrent transaction that notes the same id is waited for: if it commits, the id is not new here; if it
        rolls back, it is.
        """

    @abstractmethod
    def forget(self, consumer: str, message_ids: Sequence[str]) -> Program[None]:
        """Take back what this transaction recorded, for messages it did not handle after all."""

    @abstractmethod
    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove up to ``limit`` ids processed longer ago than ``older_than``; return how many.

        The id of a message that waits in holding, or as a dead letter that may be replayed, stays. Rows that others
        are at are left for another time: nobody is waited for.
        """


class Trial(IntEnum):
    """In what company a message was tried: the one that ends a process is found in two steps, its neighbours go on."""

    RUN = 0
    FEW = 1
    ALONE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A message found in the attempts of a worker that is gone.

    Attributes:
        crashes: how often the process has ended while it handled this message alone.
        trial: in what company it was when the process ended that left it behind.
    """

    message_id: str
    crashes: int
    trial: Trial = Trial.RUN


class AttemptStore(Protocol):
    """The messages under way, noted before a handler starts so that a crash leaves a trace.

    Source: Sidekiq's super fetch, which counts the crashes of a job before it gives up on it.
    Every implementation must pass ``pillarbox.testing.contracts.AttemptStoreContract``.
    """

    @abstractmethod
    def start(self, consumer: str, message_ids: Sequence[str], *, worker: str) -> Program[Mapping[str, Suspect]]:
        """Note that ``worker`` is about to handle ``message_ids``; return those that a dead worker left behind."""

    @abstractmethod
    def start_among_few(self, consumer: str, message_ids: Sequence[str], *, worker: str) -> Program[None]:
        """Note that ``worker`` handles these suspects together, few enough to be tried one by one if it ends again."""

    @abstractmethod
    def start_alone(self, consumer: str, message_id: str, *, worker: str) -> Program[int]:
        """Note that ``worker`` handles this one alone; return how many crashes were the message's own."""

    @abstractmethod
    def clear(self, consumer: str, message_ids: Sequence[str]) -> Program[None]:
        """Forget the attempts: their outcome is durable with this transaction."""

    @abstractmethod
    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove up to ``limit`` attempts that dead workers began longer ago than ``older_than``; return how many."""


class ClaimStore(Protocol):
    """Leased claims of handlers that run outside a transaction.

    Every implementation must pass ``pillarbox.testing.contracts.ClaimStoreContract``.
    """

    @abstractmethod
    def claim(
        self, consumer: str, message_ids: Sequence[str], *, token: str, ttl: timedelta
    ) -> Program[Collection[str]]:
        """Claim messages that nobody holds or whose claim has expired, and that are not in the inbox.

        A claim held under ``token`` already is extended.

        Returns:
            The ids now claimed under ``token``.
        """

    @abstractmethod
    def renew(self, consumer: str, message_ids: Sequence[str], *, token: str, ttl: timedelta) -> Program[None]:
        """Extend those claims that are still held under ``token``."""

    @abstractmethod
    def processed(self, consumer: str, message_ids: Sequence[str]) -> Program[Collection[str]]:
        """Return which of ``message_ids`` the inbox knows."""

    @abstractmethod
    def release(self, consumer: str, message_ids: Sequence[str], *, token: str) -> Program[int]:
        """Give up claims held under ``token``; return how many there were."""

    @abstractmethod
    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove up to ``limit`` claims that expired longer ago than ``older_than``; return how many."""


class OperationStore(Protocol):
    """The operations that ``apply_once`` has applied, which it records itself in the caller's transaction."""

    @abstractmethod
    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove up to ``limit`` operations applied longer ago than ``older_than``; return how many."""
