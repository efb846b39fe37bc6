"""What came of an idempotent operation, as values that read well in an ``if``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Insertion(StrEnum):
    """What came of ``insert_once``."""

    INSERTED = "inserted"
    THERE = "there"

    @property
    def inserted(self) -> bool:
        """The row was not there and is now."""
        return self is Insertion.INSERTED

    @property
    def is_known(self) -> bool:
        """A row was written."""
        return self.inserted


class Application(StrEnum):
    """What came of ``apply_once``."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    MISSING = "missing"

    @property
    def applied(self) -> bool:
        """The increments were added, now and not before."""
        return self is Application.APPLIED

    @property
    def duplicate(self) -> bool:
        """The operation had been applied before; nothing was added."""
        return self is Application.DUPLICATE

    @property
    def missing(self) -> bool:
        """There is no such row; nothing was added or recorded, so that another try can apply the operation."""
        return self is Application.MISSING

    @property
    def is_known(self) -> bool:
        """The row was written."""
        return self.applied


class Write(StrEnum):
    """What a versioned write did to its row."""

    INSERTED = "inserted"
    UPDATED = "updated"
    STALE = "stale"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class VersionedWrite:
    """What came of ``upsert_if_newer`` or ``update_if_version``.

    Attributes:
        outcome: what was done.
        version: the version that the row has now; ``None`` where there is no row.
    """

    outcome: Write
    version: Any = None

    @property
    def inserted(self) -> bool:
        """There was no row, and now there is."""
        return self.outcome is Write.INSERTED

    @property
    def updated(self) -> bool:
        """The row was overwritten."""
        return self.outcome is Write.UPDATED

    @property
    def stale(self) -> bool:
        """The row has another version, or a newer one, and stays as it is."""
        return self.outcome is Write.STALE

    @property
    def missing(self) -> bool:
        """There is no such row; nothing was written."""
        return self.outcome is Write.MISSING

    @property
    def is_known(self) -> bool:
        """The row is there: it was written, or locked and looked at."""
        return not self.missing


class Advance(StrEnum):
    """What the guard of a state did."""

    ADVANCED = "advanced"
    IGNORED = "ignored"
    REFUSED = "refused"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class StateAdvance:
    """What came of ``advance_state``.

    Attributes:
        outcome: what was done.
        state: the state that the row is in now; ``None`` where there is no row.
    """

    outcome: Advance
    state: Any = None

    @property
    def advanced(self) -> bool:
        """The row is in the new state."""
        return self.outcome is Advance.ADVANCED

    @property
    def ignored(self) -> bool:
        """The row was in that state already, or beyond it: the event came late and changes nothing."""
        return self.outcome is Advance.IGNORED

    @property
    def refused(self) -> bool:
        """No way leads from the row's state to the new one; nothing was written."""
        return self.outcome is Advance.REFUSED

    @property
    def missing(self) -> bool:
        """There is no such row; nothing was written."""
        return self.outcome is Advance.MISSING

    @property
    def is_known(self) -> bool:
        """The row is there: it was written, or locked and looked at."""
        return not self.missing
