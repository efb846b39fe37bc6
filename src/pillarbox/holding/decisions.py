"""The port for what an operator decides about held keys."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pillarbox.holding.record import HeldMessage, HoldState
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedHold:
    """A hold that the transaction has to itself.

    Attributes:
        is_leased: a process handles its messages at this moment.
        head: the first of its messages; ``None`` where nothing waits.
        is_due: the head waits for no time.
    """

    state: HoldState
    is_leased: bool
    head: HeldMessage | None
    is_due: bool = False


class HoldDecisions(Protocol):
    """Held keys as an operator decides about them.

    Every implementation must pass ``pillarbox.testing.contracts.HoldDecisionsContract``.
    """

    @abstractmethod
    def lock(self, consumer: str, hold_key: str) -> Program[LockedHold | None]:
        """Lock a hold until the transaction ends, so that nobody leases or ends it; ``None`` where it is not held."""

    @abstractmethod
    def let_go(self, consumer: str, hold_key: str) -> Program[None]:
        """Make a hold and all of its messages due now; they keep their order."""

    @abstractmethod
    def take_out(self, consumer: str, hold_key: str, message_ids: Sequence[str]) -> Program[None]:
        """Remove messages from a hold; a process that believes to have leased it fails when it commits."""

    @abstractmethod
    def put_under(self, consumer: str, message_id: str, hold_key: str) -> Program[None]:
        """Let a message that is held wait under ``hold_key`` instead; do nothing where it is not held."""
