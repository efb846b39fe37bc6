"""An act of an operator, and the port where acts are kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from pillarbox.transaction import Program

MOST_BY_CHARS = 200
"""The width of the columns that tell who decided."""


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
    """Make sure that an operator has said who they are and, unless ``reason`` is ``None``, why, so that it can be kept.

    Raises:
        ValueError: one of them is blank or no text that every database takes, or ``by`` is too long.
    """
    check_words(by, name="by=")
    if not by.strip():
        raise ValueError("by= must say who decides")
    if len(by) > MOST_BY_CHARS:
        raise ValueError(f"by= must have at most {MOST_BY_CHARS} characters, got {len(by)}")
    if reason is not None:
        check_words(reason, name="reason=")
        if not reason.strip():
            raise ValueError("reason= must say why")


def check_words(words: object, *, name: str) -> None:
    """Make sure that ``words``, which somebody has given as ``name``, are a text that every database takes.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(words, str):
        raise ValueError(f"{name} must be a text, got {words!r:.60}")
    if "\0" in words or any("\ud800" <= character <= "\udfff" for character in words):
        raise ValueError(f"{name} must have no NUL character and no lone surrogate, got {words!r:.60}")
