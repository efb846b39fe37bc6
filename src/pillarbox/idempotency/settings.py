"""For how long an inbox remembers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pillarbox.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxSettings:
    """Settings of the inboxes of a box.

    Attributes:
        keep: for how long an id is kept, counted from when its message was processed; older ones are removed in the
            background. ``None`` keeps them for ever.
        replay_within: how long after its last failure a dead letter may be replayed without being forced. What is kept
            must cover it, after the longest retries of any consumer.
    """

    keep: timedelta | None = timedelta(days=30)
    replay_within: timedelta = timedelta(days=14)

    def __post_init__(self) -> None:
        """Refuse times that mean nothing."""
        if self.keep is not None and self.keep <= timedelta(0):
            raise ConfigurationError(f"keep must be a time above zero, or None to keep ids for ever, got {self.keep}")
        if self.replay_within < timedelta(0):
            raise ConfigurationError(f"replay_within must not be below zero, got {self.replay_within}")

    @property
    def replayable_for(self) -> timedelta | None:
        """How old a dead letter may be when it is replayed; ``None`` where nothing is forgotten."""
        return None if self.keep is None else self.replay_within
