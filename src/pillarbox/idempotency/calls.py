"""The port of calls to the outside: what was asked under which key, and what the answer was."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TypeAlias

from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True)
class Ours:
    """The call is ours to make while our hold on it lasts."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The call was made, and this is its answer, encoded."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else is making the call."""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """The call was begun, its answer is not known, and the other side may not know its key any more."""

    age: timedelta


Standing: TypeAlias = Ours | Answered | Held | InDoubt
"""How a call stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtfulCall:
    """A call that was begun and whose answer is not known; nobody is making it now.

    Attributes:
        key: the key under which it was made.
        age: how long ago it was begun.
    """

    key: str
    age: timedelta


class CallStore(Protocol):
    """Calls by key. What is committed here before a call is what a crash in its midst leaves behind.

    Every implementation must pass ``pillarbox.testing.contracts.CallStoreContract``.
    """

    @abstractmethod
    def begin(self, key: str, *, token: str, hold: timedelta, repeatable_for: timedelta | None) -> Program[Standing]:
        """Note that the call is about to be made and hold it under ``token``, or tell why not.

        A call that was begun before, and that nobody holds, is made again if it was begun less than
        ``repeatable_for`` ago by the database's clock; ``None``: it is not.
        """

    @abstractmethod
    def hold(self, key: str, *, token: str, until: timedelta) -> Program[None]:
        """Hold a call held under ``token`` until so long from now; zero gives it up."""

    @abstractmethod
    def answer(self, key: str, body: bytes) -> Program[bytes]:
        """Store the answer, whoever holds the call; return the one that is stored: the first stays."""

    @abstractmethod
    def withdraw(self, key: str, *, token: str) -> Program[None]:
        """Forget a call held under ``token``: nothing has happened at the other side."""

    @abstractmethod
    def in_doubt(self, *, limit: int, key: str | None = None) -> Program[Sequence[DoubtfulCall]]:
        """Return up to ``limit`` calls in doubt, those begun first first; with ``key`` only the one of that key."""

    @abstractmethod
    def allow(self, key: str, *, answered: bool = False) -> Program[bool]:
        """Forget a call in doubt, so that it is made anew; return whether there was one.

        With ``answered`` it is one whose answer is stored: that is forgotten.
        """

    @abstractmethod
    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove up to ``limit`` answers last returned longer ago than ``older_than``; return how many.

        A call in doubt stays.
        """
