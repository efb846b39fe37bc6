"""The port where dead letters are kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pillarbox.deadletter.groups import Arrival
from pillarbox.deadletter.record import Burial, DeadLetter, DeadLetterState
from pillarbox.errors.values import check_values
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which dead letters; what is left out is not asked for.

    Attributes:
        type: the message's type name.
        consumer: ``<service>/<name>``.
        group: the fingerprint.
        state: only letters in this state.
        key: the message's key.
        reason: why they are dead, as in ``exhausted``.
        since: only letters whose last failure is not before this instant.
        until: only letters whose last failure is before this instant.
        text: only letters with this in the text of one of their failures, letter by letter.
    """

    type: str | None = None
    consumer: str | None = None
    group: str | None = None
    state: DeadLetterState | None = DeadLetterState.DEAD
    key: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no filter.

        Raises:
            ConfigurationError: an instant has no time zone, there is no such state, or a value is no text.
        """
        check_values(self)


class DeadLetterStore(Protocol):
    """Dead letters, each once per consumer and message.

    Every implementation must pass ``pillarbox.testing.contracts.DeadLetterStoreContract``.
    """

    @abstractmethod
    def bury(self, consumer: str, burials: Sequence[Burial]) -> Program[Mapping[str, Arrival]]:
        """Store dead messages; one that failed again is dead again, its attempts and history added.

        Returns:
            By fingerprint, what each of their groups was before.
        """

    @abstractmethod
    def resolve(self, consumer: str, message_ids: Sequence[str]) -> Program[None]:
        """Note that replayed letters were handled."""

    @abstractmethod
    def find(self, where: DeadLetterFilter, *, after: int, limit: int) -> Program[Sequence[DeadLetter]]:
        """Return up to ``limit`` letters with an id above ``after``, in the order of their ids."""

    @abstractmethod
    def get(self, letter_id: int) -> Program[DeadLetter | None]:
        """Return one letter."""

    @abstractmethod
    def move(self, letter_id: int, *, to: DeadLetterState) -> Program[bool]:
        """Move a letter from ``dead`` to ``to``; return whether it was dead. Moving to ``replaying`` counts."""

    @abstractmethod
    def count(self, where: DeadLetterFilter) -> Program[int]:
        """Count letters."""


class Blockers(Protocol):
    """The dead letters that hold a key.

    Every implementation must pass ``pillarbox.testing.contracts.DeadLetterStoreContract``.
    """

    @abstractmethod
    def blocking(self, consumer: str, hold_key: str) -> Program[Sequence[DeadLetter]]:
        """Return the dead letters that hold ``hold_key``, in the order of their ids, and lock them."""

    @abstractmethod
    def stand_alone(self, letter_id: int, hold_key: str) -> Program[None]:
        """Let a letter hold ``hold_key``, its own, instead of the key that it held."""

    @abstractmethod
    def of_message(self, consumer: str, message_id: str) -> Program[DeadLetter | None]:
        """Return the letter of a message, in whatever state it is."""
