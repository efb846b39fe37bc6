"""The inbox as an operator works with it: how large it is, and removing what is too old to come again."""

from __future__ import annotations

from datetime import timedelta

from pillarbox.control.inspection import InboxCount, Inspection
from pillarbox.errors import ConfigurationError
from pillarbox.idempotency import InboxStore
from pillarbox.transaction import TransactionSource

SHORTEST_RETENTION = timedelta(days=1)
"""Ids younger than this are not purged by hand: a redelivery would be handled a second time."""

PURGED_AT_ONCE = 10_000


class InboxControl:
    """Looks at the inboxes of all consumers and purges them."""

    def __init__(self, *, inbox: InboxStore, inspection: Inspection, source: TransactionSource) -> None:
        """Work on the ids behind these ports."""
        self._inbox = inbox
        self._inspection = inspection
        self._source = source

    async def stats(self) -> tuple[InboxCount, ...]:
        """Count the ids of each consumer."""
        return tuple(await self._source.run(self._inspection.inbox()))

    async def purge(self, older_than: timedelta) -> int:
        """Remove ids processed longer ago than ``older_than``, in short transactions; return how many.

        A message whose id was removed is handled again if it comes again: keep ids for longer than messages are
        retried, held and replayed.

        Raises:
            ConfigurationError: ``older_than`` is below ``SHORTEST_RETENTION``; nothing was removed.
        """
        if older_than < SHORTEST_RETENTION:
            raise ConfigurationError(
                f"ids must be kept for {SHORTEST_RETENTION.total_seconds() / 3600:.0f} hours at least, "
                "or redelivered messages would be handled twice; purge older ones only"
            )
        purged = 0
        while batch := await self._source.run(self._inbox.purge(older_than, limit=PURGED_AT_ONCE)):
            purged += batch
        return purged
