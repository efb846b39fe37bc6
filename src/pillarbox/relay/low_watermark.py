"""Where a polling relay begins to read: below it nothing is pending, and nothing can appear any more.

Records that were settled stay in the index until the database cleans up, and an old snapshot held anywhere keeps it
from that. A read that began at the lowest position would walk over all of them each time.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from pillarbox.transaction import Program

if TYPE_CHECKING:
    from pillarbox.clock import Clock
    from pillarbox.transaction import TransactionSource

EVERY = timedelta(seconds=1)
OR_EVERY = 10_000
"""Records read, after which it looks although the time has not come: a second of a backlog leaves many behind."""
FROM_THE_START_EVERY = timedelta(seconds=60)
"""So often all positions are looked at: a database that was set back may hand out positions a second time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """What may still appear in the outbox.

    Attributes:
        last: the highest position that was handed out, read before the writers were.
        writers: the transactions that may have written to the outbox and not ended.
        is_certain: false when a transaction may have changed its name meanwhile, as a prepared one does.
    """

    last: int
    writers: frozenset[str]
    is_certain: bool = True


class OutboxHorizon(Protocol):
    """How a database tells what may still appear in the outbox."""

    @abstractmethod
    def look(self) -> Program[Horizon]:
        """Return the highest position handed out, then who may be writing."""

    @abstractmethod
    def oldest(self, first: int, last: int) -> Program[int | None]:
        """Return the lowest position of a record from ``first`` to ``last``; ``None`` when there is none."""


class LowWatermark:
    """Rises behind what is settled, by no more than what every transaction of its time has ended."""

    def __init__(self, horizon: OutboxHorizon | None, *, source: TransactionSource, clock: Clock) -> None:
        """Look through ``horizon``; ``None`` where what is deleted is gone at once."""
        self._horizon = horizon
        self._source = source
        self._clock = clock
        self._seen: Horizon | None = None
        self._is_busy = True
        self._found = 0
        self._look_from = self._start_from = float("-inf")
        self.first = 0

    def note(self, found: int) -> None:
        """Note that a read found so many records; while it finds none there is nothing to rise for."""
        self._is_busy = self._is_busy or found > 0
        self._found += found

    def fall(self) -> None:
        """Begin at the lowest position again; the database may not be the one that it was."""
        self.first, self._seen, self._is_busy = 0, None, True

    async def rise(self) -> None:
        """Look once in a while whether all who wrote when it was last looked have ended, and rise to what they left.

        Raises:
            TransientError, ConflictError: the database was away or asked for another try; it stays where it is.
        """
        now = self._clock.monotonic()
        is_behind = self._is_busy or (self._seen is not None and self._seen.last >= self.first)
        is_time = now >= self._look_from or self._found >= OR_EVERY
        if self._horizon is None or not is_time or not (is_behind or now >= self._start_from):
            return
        self._look_from, self._is_busy, self._found = now + EVERY.total_seconds(), False, 0
        seen, self._seen = self._seen, await self._source.run(self._horizon.look())
        if seen is None:
            return
        if self._seen.last < seen.last:
            self.fall()
        elif seen.writers & self._seen.writers or not self._seen.is_certain:
            self._seen = seen  # one of them is still there
        else:
            await self._rise_to(seen.last + 1, self._horizon, now)

    async def _rise_to(self, end: int, horizon: OutboxHorizon, now: float) -> None:
        first = self.first
        if now >= self._start_from:
            first, self._start_from = 0, now + FROM_THE_START_EVERY.total_seconds()
        oldest = await self._source.run(horizon.oldest(first, end - 1))
        self.first = end if oldest is None else oldest
