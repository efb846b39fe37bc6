"""Processes of one service that share a backlog with a hot key and slow handlers; a test has them come and go."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, Pillarbox, RelaySettings, Retry, Settings, event
from pillarbox.brokers.kafka import fill, share
from pillarbox.brokers.nats import receiver as nats_receiver
from tests.fault.recording import NoticeLog
from tests.fault.story import Entered, effects, stay_open

if TYPE_CHECKING:
    from pillarbox.observe import Event
    from tests.fault.workers import Seat

INBOX, NATURAL = "inbox", "natural"
CONSUMERS = (INBOX, NATURAL)
HOT = "hot"
HOT_MS, OTHERS_MS = (2, 4, 8), (1, 5, 10, 20)
FALTER_EVERY, FAILURES = 199, 2
"""An entry in so many fails so often first, and its key is held meanwhile."""
SOON = Retry(attempts=50, immediate=0, first=timedelta(milliseconds=100), longest=timedelta(seconds=1))
USUAL = frozenset({"MessageHandled", "MessagePublished", "MessagesReceived"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where the service stands; its name is that of its topic as well, so that many may use one broker."""

    name: str
    store: str
    broker: str
    lease: timedelta

    def entries(self) -> type[Entered]:
        """Declare the entries of this service."""

        @event(f"{self.name}.entered", key="account")
        @dataclass(frozen=True)
        class Known(Entered):
            """As any other entry."""

        return Known

    def box(self) -> Pillarbox:
        """Make a box of the service; it handles nothing yet."""
        settings = Settings(relay=RelaySettings(lease=self.lease), drain_within=timedelta(seconds=10))
        return Pillarbox(self.name, store=self.store, broker=self.broker, settings=settings)


class Troubles(NoticeLog):
    """Writes down what is not everyday."""

    def notice(self, event: Event, /) -> None:
        """Write one line, or none."""
        if type(event).__name__ not in USUAL:
            super().notice(event)


async def member(me: Seat, service: Service) -> None:
    """Relay and handle until told to end, or killed."""
    read_little_ahead()
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, show_tasks)
    box, dice = service.box(), Random(me.name)
    box.observe(Troubles(me.notices))
    entries = service.entries()

    async def note(consumer: str, entry: Entered, tx: AsyncConnection) -> None:
        await tx.execute(insert(effects), {"consumer": consumer, "token": entry.token, "account": entry.account})
        await stay_open(dice.choice(HOT_MS if entry.account == HOT else OTHERS_MS))

    @box.on(entries, name=INBOX, retry=SOON)
    async def once(entry: Entered, tx: AsyncConnection, ctx: Context) -> None:
        await note(INBOX, entry, tx)
        if entry.seq % FALTER_EVERY == 0 and ctx.attempt <= FAILURES:
            raise ConnectionError

    @box.on(entries, name=NATURAL, idempotency="natural", retry=SOON)
    async def again(entry: Entered) -> None:
        async with box.transaction() as tx:
            await note(NATURAL, entry, tx)

    async with box.running():
        me.mark.touch()  # one frozen while it declares is refused by its broker and ends
        await told.wait()


def read_little_ahead() -> None:
    """Have happen with few messages what usually takes many: Kafka's pauses, and NATS's removals."""
    fill.READY_AT_MOST, fill.PAUSE_AFTER_S = 20, 0.1  # type: ignore[misc]
    share.OUT_OF_A_PLACE = 20
    nats_receiver.TRIM_AFTER = 50  # type: ignore[misc]


def show_tasks() -> None:
    """Print where each task waits."""
    for task in asyncio.all_tasks():
        task.print_stack(limit=6, file=sys.stdout)
    sys.stdout.flush()
