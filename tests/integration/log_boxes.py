"""Boxes whose relay reads the log of a PostgreSQL database, and a broker that remembers what it took."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from sqlalchemy import text

from pillarbox import Pillarbox, Settings
from pillarbox.channel import Confirmed, MessageSender, SendResult
from pillarbox.observe import LogGapFound
from pillarbox.relay import LogSettings, RelaySettings
from tests.brokers import StandInBroker
from tests.integration.boxes import Happenings, OrderPlaced
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.message import Message
    from tests.servers import PostgresServer

Form = Literal["table", "log"]
FORMS: tuple[Form, ...] = ("table", "log")
WITHIN = timedelta(seconds=30)


class RememberingBroker(StandInBroker, MessageSender):
    """Confirms everything, or answers as ``answer`` says, and remembers what it confirmed."""

    def __init__(self) -> None:
        super().__init__(ordered_prefix=False)
        self.taken: list[Message] = []
        self.answer: Callable[[Message], SendResult] = lambda _: Confirmed()

    def sender(self) -> MessageSender:
        return self

    async def send(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        results = [self.answer(message) for message in messages]
        self.taken += [message for message, result in zip(messages, results, strict=True) if result == Confirmed()]
        return results

    @property
    def numbers(self) -> list[int]:
        """The numbers of the orders in the messages taken."""
        return [number_in(message) for message in self.taken]

    async def until(self, numbers: Sequence[int], within: timedelta = WITHIN) -> None:
        """Wait until each of ``numbers`` was taken."""
        await wait_until(lambda: set(numbers) <= set(self.numbers), within, what=f"{numbers!r} published")


@dataclass(slots=True)
class LogScene:
    """One database, its server, and the boxes on it."""

    server: PostgresServer
    url: str
    form: Form = "table"
    settings: RelaySettings = field(default_factory=lambda: quick_relay())
    broker: RememberingBroker = field(default_factory=RememberingBroker)
    happenings: Happenings = field(default_factory=Happenings)
    _boxes: list[Pillarbox] = field(default_factory=list[Pillarbox])

    @property
    def database(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def slot(self) -> str:
        return f"pillarbox_{self.database}"

    def box(self, settings: RelaySettings | None = None, *, form: Form | None = None) -> Pillarbox:
        """Make a box that publishes to the scene's broker."""
        box = Pillarbox(
            "shop",
            store=self.url,
            broker=self.broker,
            settings=Settings(relay=settings or self.settings, migrate_on_open=True, outbox=form or self.form),
        )
        box.observe(self.happenings)
        self._boxes.append(box)
        return box

    @asynccontextmanager
    async def relaying(self, settings: RelaySettings | None = None) -> AsyncGenerator[Pillarbox]:
        """Run a relay for as long as the block lasts."""
        box = self.box(settings)
        async with box.running(consumers=False):
            yield box

    async def publish(self, *numbers: int, key: str = "o-1", box: Pillarbox | None = None) -> None:
        """Publish orders with these numbers in one transaction."""
        producer = box or self.box()
        await producer.migrate()
        async with producer.transaction() as tx:
            await producer.publish_all([OrderPlaced(key, number) for number in numbers], tx=tx)
        await producer.store.let_go()

    async def until_settled(self) -> None:
        """Wait until the outbox is empty."""
        await wait_until(lambda: self.scalar("SELECT count(*) FROM pillarbox_outbox") == "0", WITHIN)

    async def until_read(self) -> None:
        """Wait until a relay reads the log: what was there before comes from the table, by position."""
        healed = "SELECT count(*) FROM pillarbox_outbox_checkpoint WHERE flushed_lsn <> '' AND healing_snapshot IS NULL"
        await wait_until(lambda: self.slots() == [[self.slot, "t"]], WITHIN, what="the slot is there")
        await wait_until(lambda: self.scalar(healed) == "1", WITHIN, what="the table was read")
        await wait_until(lambda: self.slots() == [[self.slot, "t"]], WITHIN, what="the slot is read")

    async def until_unread(self) -> None:
        """Wait until nobody reads the slot."""
        await wait_until(lambda: self.slots() in ([], [[self.slot, "f"]]), WITHIN, what="the slot is free")

    def slots(self) -> list[list[str]]:
        """The slots of this database, and whether they are read."""
        return self.sql(
            f"SELECT slot_name, active FROM pg_replication_slots WHERE database = '{self.database}' ORDER BY 1"
        )

    def gaps(self) -> list[tuple[str, bool]]:
        """The gaps that were told."""
        return [(gap.reason, gap.healed) for gap in self.happenings.of(LogGapFound)]

    def sql(self, statement: str, *, database: str | None = None) -> list[list[str]]:
        """Execute ``statement`` on a connection of its own."""
        return self.server.execute(statement, database=database or self.database)

    def scalar(self, statement: str) -> str:
        """Return the one value that ``statement`` returns."""
        return self.sql(statement)[0][0]

    async def close(self) -> None:
        """Close the boxes."""
        for box in self._boxes:
            await box.store.close()


def number_in(message: Message) -> int:
    """Return the number of the order in ``message``."""
    return int(message.body.rpartition(b":")[2].strip(b' }"'))


def quick_relay(*, window: int = 60, lease_s: float = 3, idle_s: float = 0.2) -> RelaySettings:
    """Settings of a log tailing relay that does not make a test wait."""
    return RelaySettings(
        kind="log",
        window=window,
        lease=timedelta(seconds=lease_s),
        longest_poll=timedelta(milliseconds=20),
        log=LogSettings(idle_every=timedelta(seconds=idle_s)),
    )


async def execute(box: Pillarbox, statement: str) -> None:
    """Execute ``statement`` in a transaction of its own."""
    async with box.transaction() as tx:
        await tx.execute(text(statement))
