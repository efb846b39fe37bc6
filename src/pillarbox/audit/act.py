"""An act of an operator, and the port where acts are kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that somebody decided.

    Attributes:
        by: who.
        what: the verb, as in ``replay``.
        kind: what it was done to: ``dead letter``, ``group``, ``held key``, ``replay run``.
        subject: which one of that kind.
        consumer: whose it is, where it is one consumer's.
        reason: why; empty where none was asked for.
        details: what else must be known to understand it; never bodies or header values.
    """

    by: str
    what: str
    kind: str
    subject: str
    consumer: str | None = None
    reason: str = ""
    details: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAct:
    """An act as it was recorded.

    Attributes:
        id: its number, in the order of recording.
    """

    id: int
    at: datetime
    act: Act


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a purge of acts has looked at.

    Attributes:
        count: how many acts it removed.
        until: the last act that it looked at; ``None`` where none is left.
    """

    count: int
    until: int | None


class ActStore(Protocol):
    """The record of acts; none is removed from it unless somebody asks for that.

    Every implementation must pass ``pillarbox.testing.contracts.ActStoreContract``.
    """

    @abstractmethod
    def record(self, act: Act) -> Program[None]:
        """Record ``act`` in the transaction that carries it out."""

    @abstractmethod
    def find(
        self, *, kind: str | None = None, subject: str | None = None, after: int = 0, limit: int = 100
    ) -> Program[Sequence[RecordedAct]]:
        """Return up to ``limit`` acts with an id above ``after``, oldest first."""

    @abstractmethod
    def purge(self, older_than: timedelta, *, after: int, limit: int) -> Program[Forgotten]:
        """Look at up to ``limit`` acts with an id above ``after`` that were done longer ago, and remove them.

        What was done to a dead letter or a replay run stays for as long as that is kept.
        """


def checked(*, by: str, reason: str | None = None) -> None:
    """Make sure that an operator has said who they are and, unless ``reason`` is ``None``, why.

    Raises:
        ValueError: one of them is blank.
    """
    if not by.strip():
        raise ValueError("by= must say who decides")
    if reason is not None and not reason.strip():
        raise ValueError("reason= must say why")
