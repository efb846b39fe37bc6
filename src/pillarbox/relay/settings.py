"""What can be set about a relay."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Literal

from pillarbox.errors import ConfigurationError
from pillarbox.errors.values import FROM_ONE, Bounds, check_values
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
        check_values(
            self,
            window=FROM_ONE,
            lease=Bounds(above=timedelta(0), most=LONGEST_LEASE),
            keep=Bounds(above=timedelta(0), none="to keep nothing"),
            partition_rows=Bounds(least=SMALLEST_PARTITION),
        )
        if not timedelta(0) < self.shortest_poll <= self.longest_poll <= self.longest_backoff:
            raise ConfigurationError(
                "RelaySettings: a relay's pauses must be times above zero, with shortest_poll <= longest_poll <= "
                f"longest_backoff, got {self.shortest_poll}, {self.longest_poll} and {self.longest_backoff}"
            )

    @property
    def batch(self) -> int:
        """How many records one pass reads."""
        return max(1, self.window // 3)
