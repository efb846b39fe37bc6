"""The polling relay: reads what is pending in the slots that it leases, publishes, settles.

microservices.io: *Polling publisher*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pillarbox.lease import first_of
from pillarbox.observe import MessagesPublished, Observer, SettlementRefused
from pillarbox.relay.dispatch import Dispatch
from pillarbox.relay.handover import HandOver
from pillarbox.relay.low_watermark import LowWatermark
from pillarbox.relay.pauses import OUTBOX
from pillarbox.relay.reader import Aside, PendingRecord, ReadPlan, SlotReader
from pillarbox.relay.relay import Publication
from pillarbox.relay.released import Released
from pillarbox.relay.settings import RelaySettings

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper


class PollingPublication(Publication):
    """Sends records to a broker, waits for the confirms, then settles; three batches overlap.

    Each read starts at or below the oldest record that is not settled, since a transaction that took its position early
    may commit late. While one batch is published the next is read and the one before it is settled. A record that was
    not confirmed is read again first, and what was read behind it is read again too: nothing overtakes it.
    """

    def __init__(
        self,
        *,
        dispatch: Dispatch,
        reader: SlotReader,
        released: Released,
        hand_over: HandOver,
        keeper: LeaseKeeper,
        settings: RelaySettings,
        observer: Observer,
    ) -> None:
        """Publish what is in the slots of ``keeper`` through ``dispatch``."""
        self._dispatch = dispatch
        self._reader = reader
        self._released = released
        self._hand_over = hand_over
        self._source = keeper.source
        self._keeper = keeper
        self._settings = settings
        self._observer = observer
        self._low = LowWatermark(reader.horizon, source=keeper.source, clock=keeper.clock)
        self._batch: Sequence[PendingRecord] = ()
        self._published: dict[int, int] = {}
        """Position → token of what is confirmed and not settled."""

    async def advance(self) -> bool:
        """Publish the batch at hand, read the next, settle the last."""
        await self._hand_over.take_over()
        if self._dispatch.is_away:
            await self.flush()
            return False
        if len(self._batch) + len(self._published) > self._settings.window:  # a window of one has room for no overlap
            await self._settle(dict(self._published))
        batch, self._batch = self._batch, ()
        published = dict(self._published)
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read(batch, published))
                group.create_task(self._settle(published))
                publishing = group.create_task(self._publish(batch))
        except BaseExceptionGroup as errors:
            self._low.fall()
            raise first_of(errors) from errors
        if publishing.result():
            self._batch = reading.result()
        return bool(self._batch or self._published)

    async def advance_released(self) -> bool:
        """Publish released records, when nothing else is under way."""
        await self.flush()
        return await self._released.advance()

    async def flush(self) -> None:
        """Drop what is only read, settle what is published."""
        self._batch = ()
        await self._settle(dict(self._published))

    async def close(self) -> None:
        """Do nothing: no connection is kept."""

    async def _read(self, batch: Sequence[PendingRecord], published: Mapping[int, int]) -> Sequence[PendingRecord]:
        await self._low.rise()
        plan = ReadPlan(
            slots=sorted(self._keeper.tokens),
            in_flight=[*(record.position for record in batch), *published],
            paused=self._dispatch.left_out(of=OUTBOX),
            limit=self._dispatch.limit,
            first=self._low.first,
        )
        found = await self._source.run_single(self._reader.read(plan))
        self._low.note(len(found))
        if not (found or batch or published):
            self._dispatch.nothing_else()
        return found

    async def _settle(self, published: Mapping[int, int]) -> None:
        if not published:
            return
        scope, tokens = self._keeper.terms.scope, sorted(set(published.values()))
        if self._settings.keep is None:
            settled = await self._source.run_single(self._reader.settle(scope, tokens, list(published)))
        else:
            settled = await self._source.run(self._reader.settle_and_keep(scope, tokens, list(published)))
        for position in published:
            del self._published[position]
        self._observer.notice(MessagesPublished(count=settled))
        if settled < len(published):
            self._observer.notice(SettlementRefused(count=len(published) - settled))

    async def _publish(self, batch: Sequence[PendingRecord]) -> bool:
        """Send ``batch``; return whether every record of it was confirmed."""
        tokens = sorted(self._keeper.tokens.values())  # a slow batch may outlast what they are trusted for
        if held := [record for record in batch if record.held]:
            await self._put_aside([Aside(position=record.position, is_behind=True) for record in held], tokens)
            batch = [record for record in batch if not record.held]
        sent = await self._dispatch.send(batch)
        self._published.update(sent.confirmed)
        for record, reason in sent.refused:
            if await self._put_aside([Aside(position=record.position, refused=reason)], tokens):
                self._dispatch.parked(record, reason)
        return sent.complete and not held

    async def _put_aside(self, asides: Sequence[Aside], tokens: Sequence[int]) -> frozenset[int]:
        return await self._source.run(self._reader.put_aside(self._keeper.terms.scope, tokens, asides))
