"""Publishes records that had been put aside and may go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillarbox.observe import MessagesPublished, Observer
from pillarbox.relay.dispatch import Dispatch
from pillarbox.relay.pauses import RELEASED
from pillarbox.relay.reader import HeldRecords, Key

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper


class Released:
    """Released records on their way: straight from where they were held, in the order of their positions.

    What follows in their keys is put behind them until the last one is settled, under the lock of the key's hold.
    """

    def __init__(
        self,
        *,
        dispatch: Dispatch,
        held: HeldRecords,
        keeper: LeaseKeeper,
        observer: Observer,
        keep: bool = False,
    ) -> None:
        """Publish what is in the slots of ``keeper`` through ``dispatch``, and ``keep`` it."""
        self._dispatch = dispatch
        self._held = held
        self._keeper = keeper
        self._source = keeper.source
        self._observer = observer
        self._keep = keep

    async def holds(self) -> frozenset[Key]:
        """Return the keys whose records leave only this way."""
        return await self._source.run_single(self._held.holds())

    async def advance(self) -> bool:
        """Publish and settle one batch; return whether there may be more at once."""
        if self._dispatch.is_away:
            return False
        limit = self._dispatch.limit
        paused = self._dispatch.left_out(of=RELEASED)
        reading = self._held.read(slots=sorted(self._keeper.tokens), paused=paused, limit=limit)
        batch = await self._source.run_single(reading)
        if not batch:
            return False
        held = sorted(self._keeper.tokens.values())  # a slow batch may outlast what they are trusted for
        sent = await self._dispatch.send(batch)
        scope = self._keeper.terms.scope
        if sent.confirmed:
            tokens = sorted(set(sent.confirmed.values()))
            settling = self._held.settle(scope, tokens, list(sent.confirmed), keep=self._keep)
            settled = await self._source.run(settling)
            self._observer.notice(MessagesPublished(count=settled))
        for record, reason in sent.refused:
            if await self._source.run(self._held.park(scope, held, record.position, reason=reason)):
                self._dispatch.parked(record, reason)
        return bool(sent.confirmed) and len(batch) == limit
