"""For how long an inbox remembers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pillarbox.errors.values import NO_NEGATIVE_TIME, Bounds, check_values


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
        keep = Bounds(above=timedelta(0), none="to keep ids for ever")
        check_values(self, keep=keep, replay_within=NO_NEGATIVE_TIME)

    @property
    def replayable_for(self) -> timedelta | None:
        """How old a dead letter may be when it is replayed; ``None`` where nothing is forgotten."""
        return None if self.keep is None else self.replay_within
