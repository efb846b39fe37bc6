"""The port that remembers which messages wait for which causes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pillarbox.ordering.causes import Place
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A message that waits, and for what.

    Attributes:
        hold_key: the hold at whose head it waits.
        causes: the ids of the messages that it waits for.
    """

    message_id: str
    hold_key: str
    causes: Collection[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitsState:
    """How many messages wait for causes, and for how long the oldest of them has."""

    messages: int
    oldest_for: timedelta | None


class WaitStore(Protocol):
    """The causes that messages wait for: rows of the consumer's database, beside the holds in which they wait.

    Every implementation must pass ``pillarbox.testing.contracts.WaitStoreContract``.
    """

    @abstractmethod
    def wait(self, consumer: str, waiting: Sequence[Waiting]) -> Program[Mapping[str, timedelta]]:
        """Remember what messages wait for, besides what is known of them; return for how long each has waited."""

    @abstractmethod
    def places(self, consumer: str, message_ids: Collection[str]) -> Program[Mapping[str, Place]]:
        """Return where messages are that others wait for; one that is neither held nor dead is left out."""

    @abstractmethod
    def waited_for(self, consumer: str, causes: Collection[str]) -> Program[Collection[str]]:
        """Return the holds in which somebody waits for one of ``causes``."""

    @abstractmethod
    def look_again(self, consumer: str, hold_keys: Collection[str]) -> Program[None]:
        """Make what waits for causes at the heads of these holds due now."""

    @abstractmethod
    def forget(self, consumer: str, message_ids: Collection[str]) -> Program[None]:
        """Forget what these messages wait for: they wait no more."""

    @abstractmethod
    def state(self, consumer: str | None = None) -> Program[WaitsState]:
        """Count what waits for causes, of one consumer or of all."""
