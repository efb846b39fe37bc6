"""The demo's course: read the orders, set the stage, place, watch until nothing moves, add up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.resources import as_file, files
from pathlib import Path

from sqlalchemy.engine import make_url

from pillarbox import Pillarbox
from pillarbox.app.orchestrating import is_of_replies
from pillarbox.brokers.database import DatabaseBroker
from pillarbox.demo.endings import Ending
from pillarbox.demo.ledger import note_published
from pillarbox.demo.messages import OrderCancelled, OrderPlaced, OrderShipped, PaymentCompleted, StockReserved
from pillarbox.demo.mischief import NONE, Mischief, plan_mischief
from pillarbox.demo.order_file import OrderFileError, Refusal, read_orders
from pillarbox.demo.production import Production, SagaKind, production_of
from pillarbox.demo.progress import Progress
from pillarbox.demo.reconciliation import Books, reconcile
from pillarbox.demo.services.gateway import mails_in
from pillarbox.demo.shop import open_shop
from pillarbox.demo.stage import Scene, clear_tap, look, set_stage
from pillarbox.demo.supervisor import Supervisor
from pillarbox.demo.tally import Counted, counted
from pillarbox.demo.wire_tap import WireTap
from pillarbox.errors import ConfigurationError

NOTIFIER = "demo/notify-customer"
TAPPED = (OrderPlaced, PaymentCompleted, StockReserved, OrderShipped, OrderCancelled)
LOOK_EVERY = timedelta(milliseconds=200)
STALLED_AFTER = timedelta(seconds=60)
"""How long nothing may move before the run is given up."""
SAGAS = 300
"""So many of the orders that come with the library are fulfilled as sagas."""
UNEXPLAINED_FOR = timedelta(seconds=5)
"""How long nothing may be pending while something is missing: a broker may still have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the demo runs on.

    Attributes:
        store: a URL; ``None`` makes an SQLite file in a fresh temporary folder.
        broker: a URL; ``None`` lets the store carry the messages.
        orders: a file of orders, JSON lines or CSV; ``None`` takes the one that ships with the library.
        chaos: duplicates, transient failures, poison messages, crashes.
        seed: decides who suffers.
        as_json: print one JSON object instead of a table.
        saga: fulfil orders as sagas of that kind, each of which is to come to an end.
    """

    store: str | None = None
    broker: str | None = None
    orders: Path | None = None
    chaos: bool = False
    seed: int = 1
    as_json: bool = False
    saga: SagaKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a file of orders holds."""

    valid: Sequence[OrderPlaced]
    refused: Sequence[Refusal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run went.

    Attributes:
        placed: orders that were attempted.
        rolled_back: orders whose transaction was rolled back on purpose.
        stalled: the run was given up with messages pending.
        saga: of which kind the sagas were, if any.
    """

    placed: int
    rolled_back: int
    refused: Sequence[Refusal]
    books: Books
    counted: Counted
    mischief: Mischief
    duplicated: int
    crashes: int
    kills: int
    seconds: float
    stalled: bool
    saga: SagaKind | None = None

    @property
    def unexpectedly_dead(self) -> int:
        """How many dead letters no mischief explains."""
        poisoned = {f"demo/{place}" for place in self.mischief.poisoned}
        return len(self.books.dead - poisoned)

    @property
    def is_reconciled(self) -> bool:
        """Whether everything is accounted for, once."""
        books = self.books
        faults = (books.lost, books.applied_twice, books.ghosts, books.garbled, self.stalled)
        all_there = books.committed == self.placed - self.rolled_back
        all_ended = not production_of(self.saga).all_end or not (books.endings[Ending.UNFINISHED] or books.dead)
        return not any(faults) and all_there and all_ended and books.money.adds_up and books.stock_consistent


class RolledBackOnPurposeError(Exception):
    """Ends an order's transaction after everything in it was written."""


def load_orders(path: Path | None, *, at_most: int | None = None) -> Orders:
    """Read a file of orders, or ``at_most`` so many of the one that ships with the library.

    Raises:
        OrderFileError: it cannot be read, or holds no valid order.
    """
    if path is None:
        with as_file(files("pillarbox.demo") / "orders.jsonl") as shipped:
            found = load_orders(shipped)
            return found if at_most is None else Orders(valid=found.valid[:at_most], refused=())
    lines = list(read_orders(path))
    found = Orders(
        valid=[line for line in lines if isinstance(line, OrderPlaced)],
        refused=[line for line in lines if isinstance(line, Refusal)],
    )
    if not found.valid:
        first = f"; line {found.refused[0].line}: {found.refused[0].reason}" if found.refused else ""
        raise OrderFileError(f"{path} holds no valid order{first}")
    return found


def check_places(store: str, broker: str, *, chaos: bool) -> None:
    """Refuse places that the worker process could not reach, or that lose what they hold with it.

    Raises:
        ConfigurationError: says which, and why.
    """
    in_memory = store.startswith("memory:") or (
        store.startswith("sqlite") and make_url(store).database in (None, "", ":memory:")
    )
    if in_memory:
        raise ConfigurationError("the demo's worker is a process of its own, which cannot reach a store in memory")
    if chaos and not broker.startswith("database:"):
        raise ConfigurationError("--chaos works with the store as the broker; leave --broker out")


async def play(options: DemoOptions, found: Orders, *, store: str, folder: Path) -> Outcome:
    """Run the order fulfilment to its end.

    Raises:
        ConfigurationError: the places cannot be used; nothing was changed.
        WorkerFailedError: the worker process does not stay alive.
    """
    broker = options.broker or "database://"
    check_places(store, broker, chaos=options.chaos)
    ids = [order.order_id for order in found.valid]
    production = production_of(options.saga)
    mischief = plan_mischief(ids, seed=options.seed, places=production.places) if options.chaos else NONE
    (folder / "mischief.json").write_text(mischief.to_json(), encoding="utf-8")
    box = open_shop(store, broker, folder=folder, mischief=mischief, production=production)
    async with box:
        await set_stage(box, found.valid)
        supervisor = Supervisor(folder, store=store, broker=broker, clock=box.settings.clock, saga=options.saga)
        run = Run(box, found, production=production, mischief=mischief, folder=folder, supervisor=supervisor)
        return replace(await run.play(), saga=options.saga)


class Run:
    """One run on a stage that is set."""

    def __init__(
        self,
        box: Pillarbox,
        found: Orders,
        *,
        production: Production,
        mischief: Mischief,
        folder: Path,
        supervisor: Supervisor,
    ) -> None:
        """Place the orders in ``found``."""
        self._box = box
        self._production = production
        self._found = found
        self._mischief = mischief
        self._folder = folder
        self._supervisor = supervisor
        self._clock = box.settings.clock
        self._tap: WireTap | None = None
        if mischief.duplicates and isinstance(box.broker, DatabaseBroker):
            self._tap = WireTap(box, box.broker, types=TAPPED, mischief=mischief)
        self._placed = 0
        self._ended = Counter[str]()

    async def play(self) -> Outcome:
        """Place and watch until nothing moves, then add up."""
        began = self._clock.monotonic()
        with Progress(len(self._found.valid)) as progress:
            async with AsyncExitStack() as stack:
                if self._tap is not None:
                    await stack.enter_async_context(self._tap.tapping())
                await stack.enter_async_context(self._supervisor.working())
                group = await stack.enter_async_context(asyncio.TaskGroup())
                group.create_task(self._place_all())
                stalled = not await self._until_quiet(progress)
                seconds = self._clock.monotonic() - began
        if self._tap is not None:
            await clear_tap(self._box)
        return Outcome(
            placed=self._placed,
            rolled_back=self._ended["rolled back"],
            refused=self._found.refused,
            books=await self._books(),
            counted=counted(self._folder / "tally.jsonl"),
            mischief=self._mischief,
            duplicated=0 if self._tap is None else self._tap.duplicated,
            crashes=self._supervisor.crashes,
            kills=self._supervisor.kills,
            seconds=seconds,
            stalled=stalled,
        )

    async def _place_all(self) -> None:
        for order in self._found.valid:
            try:
                await self._place(order)
            except RolledBackOnPurposeError:
                self._ended["rolled back"] += 1
            self._placed += 1

    async def _place(self, order: OrderPlaced) -> None:
        async with self._box.transaction() as tx:
            await self._production.begin(self._box, order, tx=tx)
            await note_published(tx, [order] if self._production.publishes_placed else [], order_id=order.order_id)
            if order.order_id in self._mischief.rolled_back:
                raise RolledBackOnPurposeError

    async def _until_quiet(self, progress: Progress) -> bool:
        """Watch until all is placed and nothing is pending or missing; return whether it came to that."""
        kills = list(self._mischief.kills)
        last, last_moved = Scene(pending=-1, settled=0, effects=0), self._clock.monotonic()
        while True:
            await self._clock.sleep(LOOK_EVERY)
            scene = await self._box.store.run(look())
            unplaced = len(self._found.valid) - self._placed
            progress.show(placed=self._placed, settled=scene.settled)
            if kills and scene.settled >= kills[0] * len(self._found.valid):
                kills.pop(0)
                self._supervisor.kill()
            if scene != last or unplaced:
                last, last_moved = scene, self._clock.monotonic()
            still_for = timedelta(seconds=self._clock.monotonic() - last_moved)
            if scene.pending == 0 and not unplaced and await self._is_over(still_for):
                return True
            if still_for > STALLED_AFTER:
                return False

    async def _is_over(self, still_for: timedelta) -> bool:
        return still_for > UNEXPLAINED_FOR or (await self._books()).lost == 0

    async def _books(self) -> Books:
        mails = mails_in(self._folder / "mails.jsonl")
        consumers = [one for one in self._box.consumers() if not is_of_replies(one)]
        async with self._box.transaction() as tx:
            return await reconcile(tx, consumers, mails=mails, notifier=NOTIFIER)
