"""The inbox as an operator works with it: how large it is, and removing what is too old to come again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta

from pillarbox.control.inspection import InboxCount, Inspection
from pillarbox.errors import ConfigurationError
from pillarbox.idempotency import InboxSettings, InboxStore
from pillarbox.transaction import TransactionSource

SHORTEST_RETENTION = timedelta(days=1)
"""Ids younger than this are not purged by hand: a redelivery would be handled a second time."""

PURGED_AT_ONCE = 1_000


class InboxControl:
    """Looks at the inboxes of all consumers and purges them."""

    def __init__(
        self, *, inbox: InboxStore, inspection: Inspection, source: TransactionSource, settings: InboxSettings
    ) -> None:
        """Work on the ids behind these ports; ``settings`` say what need not be kept unless somebody says it."""
        self._inbox = inbox
        self._inspection = inspection
        self._source = source
        self._settings = settings

    async def stats(self, older_than: timedelta | None = None) -> tuple[InboxCount, ...]:
        """Count what the inbox of each consumer keeps, and what a purge would remove.

        Args:
            older_than: as for ``purge``; left out: what the settings say.
        """
        age = self._settings.keep if older_than is None else older_than
        return tuple(await self._source.run(self._inspection.inbox(age)))

    async def count_older(self, older_than: timedelta, *, at_least: timedelta = SHORTEST_RETENTION) -> int:
        """Count the ids that ``purge`` would remove; it refuses what that refuses."""
        _refuse_young(older_than, at_least)
        return sum(one.removable for one in await self.stats(older_than))

    async def purge(self, older_than: timedelta, *, at_least: timedelta = SHORTEST_RETENTION) -> AsyncGenerator[int]:
        """Remove ids processed longer ago than ``older_than``, batch by batch; yield how many each one removed.

        A message whose id was removed is handled again if it comes again. What waits in holding, or as a dead letter
        that may be replayed, keeps its id.

        Args:
            older_than: what is younger stays.
            at_least: for how long ids must be kept.

        Raises:
            ConfigurationError: ``older_than`` is below ``at_least``, or below a day; nothing was removed.
        """
        _refuse_young(older_than, at_least)
        batch = PURGED_AT_ONCE
        while batch == PURGED_AT_ONCE:  # ids grow old all the time: while there is one it would never end
            batch = await self._source.run(self._inbox.purge(older_than, limit=PURGED_AT_ONCE))
            if batch:
                yield batch


def _refuse_young(older_than: timedelta, at_least: timedelta) -> None:
    shortest = max(at_least, SHORTEST_RETENTION)
    if older_than < shortest:
        raise ConfigurationError(
            f"ids must be kept for {shortest.total_seconds() / 3600:.4g} hours at least, "
            "or redelivered messages would be handled twice; purge older ones only"
        )
