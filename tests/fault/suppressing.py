"""What consumers make of every copy that a broker took: the library's own count of duplicates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox
from pillarbox.message import Message
from pillarbox.observe import DuplicateSuppressed, MessageHandled
from pillarbox.observe import Event as Notice
from tests.fault.copying import CopyingBroker
from tests.fault.story import SERVICE, TOPIC, Entered
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.fault.recording import Record

WITHIN = timedelta(seconds=60)


class _Counts:
    def __init__(self) -> None:
        self.handled = 0
        self.suppressed = 0

    def notice(self, event: Notice, /) -> None:
        self.handled += isinstance(event, MessageHandled)
        self.suppressed += isinstance(event, DuplicateSuppressed)


async def count_suppressed(store: str, copies: Sequence[Record]) -> int:
    """Deliver every copy to a consumer in its place; return how many the inbox suppressed, as the consumer told it."""
    counts, gate = _Counts(), asyncio.Event()
    gate.set()
    box = Pillarbox(SERVICE, store=store, broker=CopyingBroker([_message(copy) for copy in copies], gate))
    box.observe(counts)

    @box.on(Entered, name="counting", concurrency=1)
    async def count(entry: Entered, tx: AsyncConnection) -> None:
        """Do nothing; being called is the effect."""

    async with box.running(relay=False):
        await wait_until(lambda: counts.handled + counts.suppressed >= len(copies), WITHIN)
    return counts.suppressed


def _message(copy: Record) -> Message:
    event = copy.event
    return Message(
        id=copy.message_id,
        type="ledger.entered",
        destination=TOPIC,
        key=event.key,
        content_type="application/json",
        headers={"source": SERVICE, "schemaversion": "1"},
        body=msgspec.json.encode(Entered(event.key or "", event.seq, event.id)),
    )
