"""What both ways of fulfilling orders share: the orders, a database for each service, one broker, and the books.

The books are rows without any uniqueness: an effect that happened twice would stand there twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, RelaySettings, Settings
from pillarbox.brokers.memory import MemoryBroker
from pillarbox.errors import PillarboxError

NEEDS_A_BROKER = (
    "the services have databases of their own, so something must carry their messages: set PILLARBOX_BROKER to "
    "redis://…, nats://…, kafka://… or amqp://…, or to memory:// for this one process"
)
SETTINGS = Settings(
    relay=RelaySettings(lease=timedelta(seconds=2)),  # short: whoever was killed is soon replaced
    migrate_on_open=True,
)
PATIENCE_S, LOOK_EVERY_S = 60, 0.2
ON_SHELF, CARD_LIMIT_CENTS, NOWHERE = 10_000, 100_000, "Atlantis"

metadata = MetaData()
entries = Table(
    "entries",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("order_id", String(100), nullable=False),
    Column("what", String(20), nullable=False),
    Column("amount", Integer, nullable=False),
)
orders = Table(
    "orders",
    metadata,
    Column("order_id", String(100), primary_key=True),
    Column("status", String(20), nullable=False),
)
parts = Table(
    "parts",
    metadata,
    Column("order_id", String(100), primary_key=True),
    Column("state", String(20), nullable=False),
)
shelf = Table("shelf", metadata, Column("sku", String(20), primary_key=True), Column("pieces", Integer, nullable=False))


@dataclass(frozen=True)
class Order:
    """What a customer wants; ``change_of_mind`` means that the order is cancelled soon after it was placed."""

    order_id: str
    cents: int = 2_500
    pieces: int = 1
    address: str = "12 Mill Lane"
    change_of_mind: bool = False


def orders_of(run: str, count: int) -> list[Order]:
    """Return orders: one in five goes well, the others fail each at a place of its own."""
    kinds: list[dict[str, object]] = [
        {},
        {"cents": CARD_LIMIT_CENTS + 1},
        {"pieces": ON_SHELF + 1},
        {"address": NOWHERE},
        {"change_of_mind": True},
    ]
    return [Order(f"{run}-{number + 1}", **kinds[number % len(kinds)]) for number in range(count)]  # type: ignore[arg-type]


class Stage:
    """The four services: a box and a database each, and the broker between them."""

    def __init__(self) -> None:
        """Read from the command line where it plays."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--orders", type=int, default=5, help="how many are placed")
        parser.add_argument("--folder", type=Path, help="of the databases; one that was used before goes on")
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        self.options = parser.parse_args()
        broker = os.environ.get("PILLARBOX_BROKER", "")
        if broker.partition(":")[0] in ("", "database"):
            sys.exit(NEEDS_A_BROKER)
        self._broker = MemoryBroker(clock=SETTINGS.clock) if broker.startswith("memory:") else broker
        self.folder: Path = self.options.folder or Path(tempfile.mkdtemp(prefix="fulfilment-"))
        self.folder.mkdir(exist_ok=True)
        self.boxes: dict[str, Pillarbox] = {}

    def service(self, name: str) -> Pillarbox:
        """Return the box of a service, with a database of its own: an SQLite file, or ``ORDERS_STORE`` and so on."""
        store = os.environ.get(f"{name.upper()}_STORE", f"sqlite:///{self.folder / name}.db")
        self.boxes[name] = Pillarbox(name, store=store, broker=self._broker, settings=SETTINGS)
        return self.boxes[name]

    def play(
        self,
        place: Callable[[Order], Awaitable[None]],
        change_mind: Callable[[Order], Awaitable[None]],
        *,
        leave_tombstones: Sequence[str] = (),
    ) -> None:
        """Run the services, place the orders, wait for their ends, add up the books, and exit with the verdict.

        Services that ``leave_tombstones`` may still act for an order that is cancelled until theirs is there.
        """
        try:
            books = asyncio.run(self._play(place, change_mind, frozenset(leave_tombstones)))
        except PillarboxError as error:
            sys.exit(str(error))
        if self.options.json:
            print(json.dumps([book.as_json() for book in books]))
        else:
            _print(books, self.folder)
        sys.exit(1 if any(book.problems for book in books) else 0)

    async def _play(
        self,
        place: Callable[[Order], Awaitable[None]],
        change_mind: Callable[[Order], Awaitable[None]],
        tombstones: frozenset[str],
    ) -> list[Book]:
        wanted = orders_of(self.folder.name, self.options.orders)
        async with AsyncExitStack() as stack:
            for box in self.boxes.values():
                await stack.enter_async_context(box)
                async with box.transaction() as tx:
                    await tx.run_sync(metadata.create_all)
                    if not await tx.scalar(select(func.count()).select_from(shelf)):
                        await tx.execute(insert(shelf), {"sku": "kettle", "pieces": ON_SHELF})
            for box in self.boxes.values():
                await stack.enter_async_context(box.running())
            for order in wanted:
                await place(order)
                if order.change_of_mind:
                    await change_mind(order)
            deadline = time.monotonic() + PATIENCE_S
            while True:
                books = await self._books(wanted, tombstones)
                if not any(book.problems for book in books) or time.monotonic() > deadline:
                    return books
                await asyncio.sleep(LOOK_EVERY_S)

    async def _books(self, wanted: Sequence[Order], tombstones: frozenset[str]) -> list[Book]:
        """Read what each service has written down, each from its own database."""
        found = {order.order_id: Book(order_id=order.order_id, missing=set(tombstones)) for order in wanted}
        for service, box in self.boxes.items():
            async with box.transaction() as tx:
                lines = await tx.execute(select(entries.c.order_id, entries.c.what, entries.c.amount))
                statuses = await tx.execute(select(orders.c.order_id, orders.c.status))
                undone = await tx.execute(select(parts.c.order_id).where(parts.c.state == "undone"))
                for order_id, what, amount in lines:
                    if order_id in found:
                        found[order_id].lines.append((what, amount))
                for order_id, status in statuses:
                    if order_id in found:
                        found[order_id].status = status
                for order_id in undone.scalars():
                    if order_id in found:
                        found[order_id].missing.discard(service)
            for saga in await box.sagas.list(status="compensated", limit=100_000):
                book = found.get(saga.saga_id)
                if book is not None and book.status == "unknown":  # cancelled before the step that writes the order
                    book.status = "cancelled"
        return list(found.values())


@dataclass(kw_only=True)
class Book:
    """What all four services have written down about one order, and whose tombstone is not there."""

    order_id: str
    status: str = "unknown"
    lines: list[tuple[str, int]] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)

    def sum(self, *what: str) -> int:
        """Add up lines."""
        return sum(amount for one, amount in self.lines if one in what)

    @property
    def problems(self) -> list[str]:
        """What does not add up, or is not at its end yet."""
        times = Counter(what for what, _ in self.lines)
        problems = [f"{what} happened {count} times" for what, count in times.items() if count > 1]
        cents, pieces = self.sum("charge", "refund"), self.sum("reserve", "release")
        if self.status == "shipped":
            adds_up = cents > 0 and pieces > 0 and times["ship"] == 1
        else:
            adds_up = self.status == "cancelled" and not (cents or pieces or times["ship"] or self.missing)
        return problems if adds_up else [*problems, f"{self.status}, with {self.lines}"]

    def as_json(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "order_id": self.order_id,
            "status": self.status,
            "lines": self.lines,
            "problems": self.problems,
        }


async def note(tx: AsyncConnection, order_id: str, what: str, amount: int) -> None:
    """Write a line into the books of the service whose transaction this is."""
    await tx.execute(insert(entries), {"order_id": order_id, "what": what, "amount": amount})


async def noted(tx: AsyncConnection, order_id: str, *what: str) -> int:
    """Return the sum of what the service has written down about an order."""
    found = select(func.coalesce(func.sum(entries.c.amount), 0)).where(
        entries.c.order_id == order_id, entries.c.what.in_(what)
    )
    return int(await tx.scalar(found) or 0)


async def take(tx: AsyncConnection, pieces: int) -> bool:
    """Take pieces off the shelf (fewer than none puts them back); return whether there were enough."""
    enough = shelf.c.pieces >= pieces
    taken = await tx.execute(update(shelf).where(enough).values(pieces=shelf.c.pieces - pieces))
    return taken.rowcount == 1


def _print(books: Sequence[Book], folder: Path) -> None:
    columns = ("charge", "refund", "reserve", "release", "ship")
    print(f"{'order':>8} {'status':>10}", *(f"{what:>8}" for what in columns))
    for book in books:
        figures = (str(book.sum(what) or "") for what in columns)
        print(f"{book.order_id.rpartition('-')[2]:>8} {book.status:>10}", *(f"{figure:>8}" for figure in figures))
    problems = [f"{book.order_id}: {problem}" for book in books for problem in book.problems]
    print("\n".join(problems) or "every effect at most once; what was cancelled sums up to zero")
    print(f"the databases are in {folder}")
