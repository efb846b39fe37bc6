"""The port for what only operators ask of the tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pillarbox.holding import HoldState
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownConsumer:
    """A consumer as the store remembers it.

    Attributes:
        identity: ``<service>/<name>``; empty for messages on queues that no known consumer receives from.
        queued: messages that wait for it where the database is the broker.
        held: messages in its holding.
        stopped: a dead letter has stopped it, in every process.
        processes: how many have it, whether they receive or not.
    """

    identity: str
    channels: tuple[str, ...]
    queued: int
    held: int
    stopped: bool = False
    processes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldKey:
    """A key that one consumer holds.

    Attributes:
        hold_key: ``k:<key>`` or, for a message alone, ``m:<message id>``.
        messages: how many wait, the head included; a blocked key's dead letter is not among them.
        due_at: when its head may run, or is looked at again; meaningless while it is blocked.
        waits_for: the causes that its head waits for.
    """

    consumer: str
    hold_key: str
    state: HoldState
    messages: int
    since: datetime
    due_at: datetime
    waits_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxCount:
    """What a consumer's inbox keeps.

    Attributes:
        ids: the messages that it has processed.
        business_keys: the rows beside the ids, of a consumer that knows duplicates by them.
        oldest_at: when the oldest of all was processed.
        removable: how many of all need not be kept any longer.
    """

    consumer: str
    ids: int
    business_keys: int
    oldest_at: datetime
    removable: int


class Inspection(Protocol):
    """Questions that no pattern asks for itself; they read and lock nothing.

    Every implementation must pass ``pillarbox.testing.contracts.InspectionContract``.
    """

    @abstractmethod
    def consumers(self) -> Program[Sequence[KnownConsumer]]:
        """Return the consumers of every service, by name, with what waits for them; counts every waiting message."""

    @abstractmethod
    def oldest_queued_for(self) -> Program[timedelta | None]:
        """Return since when the oldest message in the database's own queues was published; ``None`` if there is none.

        Costs the same however many there are.
        """

    @abstractmethod
    def held_keys(self, consumer: str | None, *, limit: int) -> Program[Sequence[HeldKey]]:
        """Return the holds that have lasted longest, of one consumer or of all."""

    @abstractmethod
    def inbox(self, older_than: timedelta | None) -> Program[Sequence[InboxCount]]:
        """Count what the inbox of each consumer keeps, and what a purge would remove; looks at all of it.

        Args:
            older_than: what was processed longer ago need not be kept; ``None``: everything is.
        """
