"""Upkeep of the outbox: what a relay does now and then so that published records do not pile up."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from pillarbox.errors import ConflictError
from pillarbox.outbox import OutboxPartitions, PublishedRecords
from pillarbox.relay.settings import RelayKind, RelaySettings

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper

EVERY = timedelta(seconds=60)
AT_ONCE = 2000
"""Records that one pass removes."""

CARETAKER = 0
"""Whoever owns this slot does the upkeep for all."""


def keeps_for(settings: RelaySettings) -> timedelta | None:
    """Return for how long published records stay; ``None`` where nothing was ever left to be removed."""
    if settings.keep is not None:
        return settings.keep
    return timedelta(0) if settings.kind == RelayKind.SEQUENCE else None


class Upkeep:
    """Removes what need not be kept any longer, a bounded amount at a time, and makes and drops partitions."""

    def __init__(
        self,
        *,
        published: PublishedRecords,
        partitions: OutboxPartitions | None,
        keeper: LeaseKeeper,
        settings: RelaySettings,
    ) -> None:
        """Work while the slots of ``keeper`` include the caretaker's; ``partitions`` where the database has them."""
        self._published = published
        self._partitions = partitions
        self._keeper = keeper
        self._source = keeper.source
        self._settings = settings
        self._clock = keeper.clock
        self._keep = keeps_for(settings)
        self._purge_from = float("-inf")
        self._partitions_from = float("-inf")

    async def step(self) -> None:
        """Do what is due; most of the time nothing is.

        Raises:
            TransientError, ConflictError: the database was away or asked for another try; what is due stays due.
        """
        if CARETAKER not in self._keeper.tokens:
            return
        now = self._clock.monotonic()
        if self._partitions is not None and now >= self._partitions_from:
            self._partitions_from = now + EVERY.total_seconds()
            await self._arrange(self._partitions)
        if self._keep is not None and now >= self._purge_from:
            await self._source.run(self._published.remember(every=EVERY / 2))
            removed = await self._source.run(self._published.purge(self._keep, limit=AT_ONCE))
            if removed < AT_ONCE:
                self._purge_from = now + EVERY.total_seconds()

    async def _arrange(self, partitions: OutboxPartitions) -> None:
        """Make and drop partitions; where others hold the outbox it is left for the next time."""
        try:
            if self._settings.kind == RelayKind.SEQUENCE:
                await self._source.run(partitions.extend(self._settings.partition_rows))
            for partition in await self._source.run(partitions.find_droppable(self._keep or timedelta(0))):
                await self._source.run(partitions.drop(partition))
        except ConflictError:
            return
