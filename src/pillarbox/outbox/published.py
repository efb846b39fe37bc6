"""Records that were published and are kept for a while."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRecords:
    """Which kept records are meant.

    Attributes:
        since: published at this instant or later.
        until: published before this instant.
        type: of this message type only.
        key: of this key only.
        destination: of this destination only.
    """

    since: datetime
    until: datetime
    type: str | None = None
    key: str | None = None
    destination: str | None = None


class PublishedRecords(Protocol):
    """Published records: how long they are kept, and how they are published once more.

    They stand in a table of their own, or in the outbox behind the cursor of a sequence relay. There, when a record
    was published is known as exactly as ``remember`` is called often; in doubt a record is kept, and republished.
    Every implementation must pass ``pillarbox.testing.contracts.PublishedRecordsContract``.
    """

    @abstractmethod
    def now(self) -> Program[datetime]:
        """Return the instant that records published now are given."""

    @abstractmethod
    def remember(self, *, every: timedelta) -> Program[None]:
        """Note how far the cursor has come by now, unless that was noted within ``every``."""

    @abstractmethod
    def purge(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove up to ``limit`` records published ``older_than`` ago or earlier; return how many.

        A record that is still to be published is never among them
        (``tests/contract/test_published_records.py``).
        """

    @abstractmethod
    def count_older(self, older_than: timedelta) -> Program[int]:
        """Count what ``purge`` would remove in the end."""

    @abstractmethod
    def is_any_kept(self) -> Program[bool]:
        """Tell whether a published record is there."""

    @abstractmethod
    def count(self, wanted: KeptRecords) -> Program[int]:
        """Count the kept records that ``republish`` would append in the end."""

    @abstractmethod
    def republish(self, wanted: KeptRecords, *, limit: int) -> Program[int]:
        """Move up to ``limit`` kept records back into the outbox, oldest first; return how many.

        They keep their message ids and take new positions in their old order, under the locks of their keys. What was
        moved is not kept any more until it is published again; so calling this until it returns 0 moves each record
        once, also when it was interrupted.
        """
