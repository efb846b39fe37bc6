"""Upkeep of the inboxes: what a box with consumers does now and then so that processed ids do not pile up."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from pillarbox.observe import InboxPurged, Observer
from pillarbox.rounds import Rounds

if TYPE_CHECKING:
    from pillarbox.idempotency.store import InboxStore
    from pillarbox.lease import LeaseKeeper
    from pillarbox.transaction import Program

SCOPE = "inbox"
"""The lease scope in which one process at a time purges."""
EVERY = timedelta(minutes=1)
AT_ONCE = 1000
"""Rows that one transaction removes."""
REST = 3
"""After a batch, rest for so many times as long as it took: handlers come first."""


class Purge(Protocol):
    """What removes up to ``limit`` rows that are older than ``older_than``, and tells how many."""

    def __call__(self, older_than: timedelta, *, limit: int) -> Program[int]:
        """Remove them."""
        ...


class InboxUpkeep(Rounds):
    """Removes what inboxes need not remember any longer; the processes of a database take turns by a lease.

    Two at once, as when one was paused beyond its lease, remove different rows.
    """

    def __init__(
        self,
        *,
        inbox: InboxStore | None,
        others: Sequence[Purge],
        keep: timedelta,
        keeper: LeaseKeeper,
        observer: Observer,
        every: timedelta = EVERY,
    ) -> None:
        """Keep everything for ``keep``, ids and what ``others`` remove; without ``inbox``, ids for ever.

        Look ``every`` so often, whenever nobody else holds the lease of ``keeper``.
        """
        super().__init__("inbox upkeep", every=every, first_after=every, clock=keeper.clock, observer=observer)
        self._inbox = inbox
        self._others = others
        self._keep = keep
        self._keeper = keeper
        self._source = keeper.source

    async def round(self) -> None:
        """Remove all that is due, unless somebody else is at it; tell of it.

        Raises:
            TransientError, ConflictError: the database was away or asked for another try; what is left stays due.
        """
        ids = leftovers = 0
        try:
            await self._keeper.keep()
            if self._inbox is not None:
                async for batch in self._remove(self._inbox.purge):
                    ids += batch
            for purge in self._others:
                async for batch in self._remove(purge):
                    leftovers += batch
            await self._keeper.leave()
        finally:
            if ids or leftovers:
                self._observer.notice(InboxPurged(ids=ids, leftovers=leftovers))

    async def _remove(self, purge: Purge) -> AsyncGenerator[int]:
        """Remove batch by batch, each in a short transaction, for as long as the lease is held."""
        while self._keeper.tokens and not self._stopping:
            began = self._clock.monotonic()
            batch = await self._source.run(purge(self._keep, limit=AT_ONCE))
            yield batch
            if batch < AT_ONCE:
                return
            await self._wakeup.wait(self._clock, timedelta(seconds=(self._clock.monotonic() - began) * REST))
            await self._keeper.keep()
