"""How much is read ahead of the handlers: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

READY_AT_MOST: Final = 1_000
READY_BYTES_AT_MOST: Final = 16 << 20
PAUSE_AFTER_S: Final = 1.0


class Act(Enum):
    """What to do about the partitions before the next poll."""

    POLL = "poll"
    WAIT = "wait"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(slots=True)
class Fill:
    """Whether there is enough for now.

    For a while that is waited out and what follows stays in the client, since a pause throws away what the client has
    fetched. For longer everything is paused, so that polling can go on and the membership lives.
    """

    is_paused: bool = False
    full_since: float | None = None

    def judge(self, ready: int, size: int, now: float) -> Act:
        """Decide, by how many messages are ready and how large they are; ``now`` in seconds that only grow."""
        if self.is_paused:
            if ready > READY_AT_MOST // 2 or size > READY_BYTES_AT_MOST // 2:
                return Act.POLL
            self.is_paused, self.full_since = False, None
            return Act.RESUME
        if ready < READY_AT_MOST and size < READY_BYTES_AT_MOST:
            self.full_since = None
            return Act.POLL
        if self.full_since is None:
            self.full_since = now
        if now - self.full_since <= PAUSE_AFTER_S:
            return Act.WAIT
        self.is_paused = True
        return Act.PAUSE
