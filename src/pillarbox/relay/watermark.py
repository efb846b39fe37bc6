"""Publishes records in one order up to a watermark: what the sequence relay and the log tailing relay share.

One relay at a time works on all slots. The watermark passes a record once its broker confirmed it, or once it was put
aside; a transient failure stops it. What is confirmed beyond a record that failed is remembered and not sent again.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Protocol

import msgspec

from pillarbox.errors import LeaseLostError
from pillarbox.lease import first_of
from pillarbox.observe import MessagesPublished, Observer, SettlementRefused
from pillarbox.relay.dispatch import Dispatch, Sent
from pillarbox.relay.handover import HandOver
from pillarbox.relay.reader import Aside, Key, PendingRecord
from pillarbox.relay.relay import Publication
from pillarbox.relay.released import Released
from pillarbox.relay.settings import RelaySettings

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper


class Feed(Protocol):
    """Records in the one order in which a watermark relay publishes them."""

    @abstractmethod
    async def open(self) -> None:
        """Go to the watermark; called whenever all slots were gained, and before anything else."""

    @abstractmethod
    async def next(self, *, limit: int) -> Sequence[PendingRecord]:
        """Return up to ``limit`` records that follow those already given; none when there are none now."""

    @abstractmethod
    async def settle(self, done: Sequence[PendingRecord], asides: Sequence[Aside]) -> None:
        """Move the watermark past ``done``, which follow those settled so far; put aside what ``asides`` names.

        Both happen in one transaction that is fenced by the tokens of the slots.

        Raises:
            LeaseLostError: another relay works now; nothing was changed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections; ``open`` may be called again."""


class _Entry(msgspec.Struct, gc=False):
    """A record between feed and watermark; a struct, since one is made for every record."""

    record: PendingRecord
    is_done: bool = False
    aside: Aside | None = None


class WatermarkPublication(Publication):
    """Sends what its feed gives; while one batch is published the next is read and the one before it is settled."""

    def __init__(
        self,
        *,
        feed: Feed,
        dispatch: Dispatch,
        released: Released,
        hand_over: HandOver,
        keeper: LeaseKeeper,
        settings: RelaySettings,
        observer: Observer,
    ) -> None:
        """Publish what ``feed`` gives while all slots of ``keeper`` are held."""
        self._feed = feed
        self._dispatch = dispatch
        self._released = released
        self._hand_over = hand_over
        self._keeper = keeper
        self._settings = settings
        self._observer = observer
        self._entries: deque[_Entry] = deque()
        self._holds: set[Key] = set()
        self._opened_for: frozenset[int] = frozenset()

    async def advance(self) -> bool:
        """Publish what was read, read what follows, settle what is done."""
        await self._open()
        if self._dispatch.is_away:
            await self._settle(self._done())
            return False
        sending = self._to_send()
        done = self._done()
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read())
                group.create_task(self._settle(done))
                publishing = group.create_task(self._publish(sending))
        except BaseExceptionGroup as errors:
            self._opened_for = frozenset()  # what is in memory may not be the truth any more
            raise first_of(errors) from errors
        if not (sending or reading.result()):
            self._dispatch.nothing_else()
        return reading.result() or publishing.result() or bool(self._entries and self._entries[0].is_done)

    async def advance_released(self) -> bool:
        """Publish released records, unless some on their way behind them are not yet written down as such."""
        await self._open()
        await self._settle(self._done())
        if any(entry.aside is not None for entry in self._entries):
            return False
        more = await self._released.advance()
        if self._holds:
            self._holds = set(await self._released.holds())
        return more

    async def flush(self) -> None:
        """Settle what is done, under the leases it was published with; the rest is forgotten and will be read again."""
        if self._opened_for and self._opened_for == frozenset(self._keeper.tokens.values()):
            await self._settle(self._done())

    async def close(self) -> None:
        """Forget what is in flight, and tell how much of it is published and not known to be settled."""
        self._opened_for = frozenset()
        unsettled = sum(entry.is_done and entry.aside is None for entry in self._entries)
        self._entries.clear()
        if unsettled:
            self._observer.notice(SettlementRefused(count=unsettled))
        await self._feed.close()

    async def _open(self) -> None:
        """Start again from the watermark after the slots were gained anew, or after an error.

        Raises:
            LeaseLostError: no slot may be worked on now; what was in flight is forgotten.
        """
        tokens = frozenset(self._keeper.tokens.values())
        if tokens and tokens == self._opened_for:
            return
        await self.close()
        if not tokens:
            raise LeaseLostError(lease=self._keeper.terms.scope, token=0)
        await self._hand_over.take_over()
        await self._feed.open()
        self._holds = set(await self._released.holds())
        self._opened_for = tokens

    def _to_send(self) -> list[_Entry]:
        """Return what waits, in order; records of held keys go behind what is held instead."""
        if self._holds:
            for entry in self._entries:
                if not entry.is_done and self._key_of(entry) in self._holds:
                    self._put_aside(
                        entry, Aside(position=entry.record.position)
                    )  # opens the hold if it ended meanwhile
        return list(islice((entry for entry in self._entries if not entry.is_done), self._dispatch.limit))

    def _done(self) -> list[_Entry]:
        return list(takewhile(lambda entry: entry.is_done, self._entries))

    async def _read(self) -> bool:
        room = min(self._settings.window - len(self._entries), self._dispatch.limit)
        if room <= 0:
            return False
        found = await self._feed.next(limit=room)
        self._entries.extend(_Entry(record) for record in found)
        return bool(found)

    async def _settle(self, done: Sequence[_Entry]) -> None:
        if not done:
            return
        asides = [entry.aside for entry in done if entry.aside is not None]
        try:
            await self._feed.settle([entry.record for entry in done], asides)
        except BaseException:
            self._opened_for = frozenset()  # the watermark may have moved all the same
            raise
        for _ in done:
            self._entries.popleft()
        if published := len(done) - len(asides):
            self._observer.notice(MessagesPublished(count=published))
        for entry in done:
            if entry.aside is not None and entry.aside.refused is not None:
                self._dispatch.parked(entry.record, entry.aside.refused)

    async def _publish(self, sending: Sequence[_Entry]) -> bool:
        """Send, and mark what is done; return whether any was."""
        if not sending:
            return False
        sent = await self._dispatch.send([entry.record for entry in sending])
        asides = {aside.position: aside for aside in _asides(sent)}
        for entry in sending:
            position = entry.record.position
            if position in sent.confirmed:
                entry.is_done = True
            elif position in asides:
                self._put_aside(entry, asides[position])
        return bool(sent.confirmed or asides)

    def _put_aside(self, entry: _Entry, aside: Aside) -> None:
        entry.is_done, entry.aside = True, aside
        key = self._key_of(entry)
        if key is not None:
            self._holds.add(key)

    def _key_of(self, entry: _Entry) -> Key | None:
        message = entry.record.message
        return None if message.key is None else (message.destination, message.key)


def _asides(sent: Sent) -> Iterator[Aside]:
    """Name what was refused, and what waits for a destination that nobody listens to yet."""
    for record, reason in sent.refused:
        yield Aside(position=record.position, refused=reason)
    for record in sent.not_ready:
        yield Aside(position=record.position)
