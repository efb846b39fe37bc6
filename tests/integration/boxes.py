"""Boxes at work in tests: where they stand, what happens in them, and what their handlers wrote."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select

from pillarbox import Pillarbox, Settings, command, event
from pillarbox.observe import Event, MessageDead, MessageHandled, Observer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")

tables = MetaData()
effects = Table(
    "effects", tables, Column("number", Integer, primary_key=True), Column("what", String(200), nullable=False)
)
SETTINGS = Settings(migrate_on_open=True, drain_within=timedelta(seconds=10))


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """What most tests publish."""

    order_id: str
    number: int = 0


@event("stock.reserved", key="order_id")
@dataclass(frozen=True)
class StockReserved:
    """What handlers answer."""

    order_id: str
    number: int = 0


@command("payment.charge", queue="payments", key="order_id")
@dataclass(frozen=True)
class ChargePayment:
    """A command."""

    order_id: str


class Happenings(Observer):
    """Everything that happened in a box."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notice(self, event: Event, /) -> None:
        self.events.append(event)

    def of(self, kind: type[T], consumer: str | None = None) -> list[T]:
        """The events of ``kind``, of all consumers or of the one named."""
        return [
            one
            for one in self.events
            if isinstance(one, kind) and (consumer is None or getattr(one, "consumer", None) == f"shop/{consumer}")
        ]

    async def until(self, kind: type[T], count: int = 1, *, consumer: str | None = None) -> list[T]:
        """Wait for ``count`` events of ``kind``."""
        await self._until(lambda: len(self.of(kind, consumer)) >= count)
        return self.of(kind, consumer)

    async def until_settled(self, count: int) -> None:
        """Wait until ``count`` messages are handled or dead."""
        await self._until(lambda: len(self.of(MessageHandled)) + len(self.of(MessageDead)) >= count)

    async def _until(self, is_true: Callable[[], bool]) -> None:
        try:
            await wait_until(is_true, timedelta(seconds=20))
        except AssertionError as error:
            error.add_note(f"the last events: {self.events[-10:]}")
            raise


def make_box(
    url: str, *, broker: str | None = None, settings: Settings = SETTINGS, service: str = "shop"
) -> tuple[Pillarbox, Happenings]:
    """A box of ``service`` and what happens in it."""
    box, happenings = Pillarbox(service, store=url, broker=broker, settings=settings), Happenings()
    box.observe(happenings)
    return box, happenings


async def create_tables(box: Pillarbox) -> None:
    """Create the table of the handlers' effects, if it is not there."""
    async with box.transaction() as tx:
        await tx.run_sync(tables.create_all)


async def publish(box: Pillarbox, *messages: object) -> None:
    """Publish or send ``messages`` in one transaction."""
    async with box.transaction() as tx:
        await box.publish_all(messages, tx=tx)


async def note(tx: AsyncConnection, what: str) -> None:
    """Write an effect."""
    await tx.execute(insert(effects).values(what=what))


def note_sync(tx: Connection, what: str) -> None:
    """Write an effect."""
    tx.execute(insert(effects).values(what=what))


async def noted(box: Pillarbox) -> list[str]:
    """The effects, in the order they were written."""
    async with box.transaction() as tx:
        return list((await tx.scalars(select(effects.c.what).order_by(effects.c.number))).all())


async def count_noted(box: Pillarbox) -> int:
    """How many effects there are."""
    async with box.transaction() as tx:
        return (await tx.execute(select(func.count()).select_from(effects))).scalar_one()


def has_noted(box: Pillarbox, count: int) -> Callable[[], Awaitable[bool]]:
    """Whether so many effects are there."""

    async def has() -> bool:
        return await count_noted(box) >= count

    return has


def by_key(effects: Sequence[str]) -> dict[str, list[int]]:
    """The numbers of each key in the order of their effects, each effect being ``key number``."""
    found: dict[str, list[int]] = {}
    for effect in effects:
        key, number = effect.split()
        found.setdefault(key, []).append(int(number))
    return found
