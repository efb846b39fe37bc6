"""The ports of holding: may this key run now, and who drains a held key."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pillarbox.holding.record import HeldMessage, Hold
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingState:
    """What one consumer, or all of them, has put aside.

    Attributes:
        keys: held keys; ``blocked`` of them wait for an operator.
        messages: messages in holding.
        oldest_for: how long the oldest hold has lasted.
        fullest: messages of the key that has most of them.
    """

    keys: int
    blocked: int
    messages: int
    oldest_for: timedelta | None
    fullest: int = 0


class HoldingStore(Protocol):
    """Held keys as a run sees them: rows of the consumer's database, never cached as truth.

    Every implementation must pass ``pillarbox.testing.contracts.HoldingStoreContract``.
    """

    @abstractmethod
    def held_among(self, consumer: str, hold_keys: Sequence[str]) -> Program[Collection[str]]:
        """Return which of ``hold_keys`` are held, and keep these holds from ending before this transaction does.

        A hold whose end is under way is waited for; if it ended, it is not returned.
        """

    @abstractmethod
    def full_among(self, consumer: str, hold_keys: Sequence[str], *, limit: int) -> Program[Collection[str]]:
        """Return which of ``hold_keys`` are held and have ``limit`` messages or more, whatever their states.

        Reads no more than ``limit`` messages of a key, and locks nothing: others may append meanwhile.
        """

    @abstractmethod
    def hold(self, consumer: str, holds: Sequence[Hold]) -> Program[None]:
        """Create holds, or give existing ones the state and due time stated; a lease on them stays."""

    @abstractmethod
    def join(self, consumer: str, holds: Sequence[Hold]) -> Program[None]:
        """Create those of ``holds`` that are not there; keep all of them from ending before this transaction does.

        One that is there keeps its state and its due time. A hold whose end is under way is waited for.
        """

    @abstractmethod
    def append(self, consumer: str, messages: Sequence[HeldMessage]) -> Program[None]:
        """Put messages behind the others of their holds, replays at the head; one that is there already is left.

        A replay of a message that is held behind its own key, as a late duplicate, is moved to the head.
        """

    @abstractmethod
    def stopped(self, consumer: str | None = None) -> Program[Collection[str]]:
        """Return the consumers that are stopped by a dead letter: of all, or whether the one named is among them."""

    @abstractmethod
    def state(self, consumer: str | None = None) -> Program[HoldingState]:
        """Count what is put aside."""


class HeldQueue(Protocol):
    """Held keys as the process sees them that drains one from its head.

    Every implementation must pass ``pillarbox.testing.contracts.HoldingStoreContract``.
    """

    @abstractmethod
    def lease_due(self, consumer: str, *, token: str, limit: int, ttl: timedelta) -> Program[int]:
        """Lease up to ``limit`` holds whose head is due and that nobody has leased; return how many.

        Of a consumer that is stopped, only what stops it.
        """

    @abstractmethod
    def renew(self, consumer: str, *, token: str, ttl: timedelta) -> Program[None]:
        """Extend the leases held under ``token``."""

    @abstractmethod
    def heads(self, consumer: str, *, token: str, per_key: int) -> Program[Sequence[HeldMessage]]:
        """Return the first messages of each hold leased under ``token``, in order, up to the first not due."""

    @abstractmethod
    def fence(self, consumer: str, hold_keys: Collection[str], *, token: str) -> Program[None]:
        """Make sure that the holds are still leased under ``token``; keep them so to the transaction's end.

        Raises:
            LeaseLostError: another process has leased one of them; the transaction must be rolled back.
        """

    @abstractmethod
    def remove(self, consumer: str, message_ids: Sequence[str]) -> Program[None]:
        """Take messages out of holding: they were handled, or are dead."""

    @abstractmethod
    def reschedule(self, consumer: str, messages: Sequence[HeldMessage]) -> Program[None]:
        """Write the attempts, history and due time of messages that stay at the head of their holds."""

    @abstractmethod
    def finish(self, consumer: str, *, token: str) -> Program[int]:
        """End the holds leased under ``token`` that are empty, and give back the lease of the others.

        A hold ends only under its row lock with its queue seen empty, so that nothing is stranded behind it.

        Returns:
            How many holds ended.
        """
