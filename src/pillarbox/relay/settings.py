"""What can be set about a relay."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Literal

from pillarbox.errors import ConfigurationError
from pillarbox.relay.log_settings import LogSettings

SMALLEST_PARTITION = 10_000
"""Below this, partitions would be made and dropped all the time."""
LONGEST_LEASE = timedelta(days=365)
"""For so long the slots of a process that was killed would be nobody's."""


class RelayKind(StrEnum):
    """The ways to read an outbox; each has its page among the patterns."""

    POLLING = "polling"
    SEQUENCE = "sequence"
    LOG = "log"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """Settings of a relay.

    Attributes:
        kind: how it reads the outbox: by polling, by a cursor over an append-only table, or from the database's log.
        window: how many messages may have been published without being settled; the bound of duplicates per crash.
            Three batches share it: one is read, one published, one settled.
        lease: how long a relay that stops without a word keeps its slots from others.
        shortest_poll: the pause after a pass that found nothing, right after there was work.
        longest_poll: the pause when there has been no work for a while.
        longest_backoff: the longest pause before a broker or destination that failed is tried again.
        keep: for how long published records are kept, to be republished or looked at; ``None`` keeps none.
        partition_rows: how many positions a partition of the outbox holds where a sequence relay works on PostgreSQL.
        log: names and habits of a relay of the kind ``log``.
    """

    kind: RelayKind | Literal["polling", "sequence", "log"] = RelayKind.POLLING
    window: int = 1500
    lease: timedelta = timedelta(seconds=15)
    shortest_poll: timedelta = timedelta(milliseconds=1)
    longest_poll: timedelta = timedelta(milliseconds=100)
    longest_backoff: timedelta = timedelta(seconds=5)
    keep: timedelta | None = None
    partition_rows: int = 1_000_000
    log: LogSettings = field(default_factory=LogSettings)

    def __post_init__(self) -> None:
        """Refuse what no relay could work with, and a kind that there is not."""
        if self.kind not in list(RelayKind):
            raise ConfigurationError(f"a relay's kind is one of {', '.join(RelayKind)}, not {self.kind!r}")
        if self.window < 1:
            raise ConfigurationError(f"a relay's window must be at least 1, got {self.window}")
        if not timedelta(0) < self.lease <= LONGEST_LEASE:
            raise ConfigurationError(
                f"a relay's lease must be a time above zero and at most {LONGEST_LEASE.days} days, got {self.lease}"
            )
        if not timedelta(0) < self.shortest_poll <= self.longest_poll <= self.longest_backoff:
            raise ConfigurationError(
                "a relay's pauses must be times above zero, with shortest_poll <= longest_poll <= longest_backoff, got "
                f"{self.shortest_poll}, {self.longest_poll} and {self.longest_backoff}"
            )
        if self.keep is not None and self.keep <= timedelta(0):
            raise ConfigurationError(f"keep must be a time above zero, or None to keep nothing, got {self.keep}")
        if self.partition_rows < SMALLEST_PARTITION:
            raise ConfigurationError(
                f"a partition of the outbox holds at least {SMALLEST_PARTITION} positions, got {self.partition_rows}"
            )

    @property
    def batch(self) -> int:
        """How many records one pass reads."""
        return max(1, self.window // 3)
