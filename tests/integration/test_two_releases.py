"""Two releases of one service at work on one database: neither takes from the other what it does not know itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Table, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, RelaySettings, Retry, Saga, command, event
from pillarbox.app import flowing
from pillarbox.app.background import keeper_of
from pillarbox.app.membership import Membership
from pillarbox.brokers.memory import MemoryBroker
from pillarbox.errors import BrokerUnavailableError, ConfigurationError, InvalidSetupError, StoreUnavailableError
from pillarbox.observe import ConsumerStopped, MessageDiscarded, MessageHandled, MessageHeld
from pillarbox.relational.flow_tables import flow_participants
from pillarbox.relational.idempotency import WORKERS
from pillarbox.relational.tables import breakers, held, inbox, members, queue, subscriptions
from tests.integration.boxes import SETTINGS, Happenings, OrderPlaced, create_tables, make_box, note, noted, publish
from tests.integration.choreography import OrderShipped, declare, has_seen, make_service, pay, place, ship, stock
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.channel import Broker, Subscription

ONE_OF_EACH = [
    "sqlite",
    pytest.param("postgresql+psycopg", marks=pytest.mark.server),
    pytest.param("mariadb+asyncmy", marks=pytest.mark.server),
]
on_each = pytest.mark.parametrize("store_url", ONE_OF_EACH, indirect=True)
DAY = 86_400_000_000


def make(url: str, name: str, broker: Broker | None = None, **options: Any) -> tuple[Pillarbox, Happenings]:
    box, happenings = make_service("shop", url, broker)

    @box.on(OrderPlaced, name=name, **options)
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        if order.order_id == "bad":
            raise ValueError("bad")
        await note(tx, f"{name} {order.order_id}")

    return box, happenings


async def rows(box: Pillarbox, table: Table) -> Sequence[Any]:
    async with box.transaction() as tx:
        return (await tx.execute(select(table))).all()


async def start(box: Pillarbox) -> None:
    """Start another process of it, and stop it."""
    async with box.running(relay=False):
        pass


async def subscribed(box: Pillarbox) -> list[str]:
    return sorted({row.consumer for row in await rows(box, subscriptions)})


@on_each
async def test_a_consumer_that_a_dead_letter_has_stopped_is_not_forgotten(store_url: str) -> None:
    """Nobody receives for it now, and its process has it all the same."""
    newer, happenings = make(store_url, "added", when_dead="stop", retry=Retry(attempts=1))
    older, _ = make(store_url, "known")
    async with newer.running():
        await create_tables(newer)
        await publish(newer, OrderPlaced("bad"))
        await happenings.until(ConsumerStopped)

        async def is_still() -> bool:
            return all(one.scope != "queue/shop/added" for one in await rows(newer, members))

        await wait_until(is_still)
        await start(older)

        assert "shop/added" in await subscribed(newer)


@on_each
async def test_a_consumer_of_a_process_that_is_about_to_receive_is_not_forgotten(store_url: str) -> None:
    """Two releases start at once: one has declared its consumers, and its receivers have not begun."""
    newer, _ = make(store_url, "added")
    older, _ = make(store_url, "known")
    await start(newer)
    async with newer:
        await newer._workers(relay=False, consumers=True, sagas=False)
        await start(older)

        assert "shop/added" in await subscribed(newer)


async def test_with_a_broker_of_its_own_an_older_process_starts_while_a_consumer_it_does_not_know_has_work(
    sqlite_url: str,
) -> None:
    broker = MemoryBroker(clock=SETTINGS.clock)
    newer, _ = make(sqlite_url, "added", broker, retry=Retry(attempts=5, immediate=1, first=timedelta(hours=1)))
    older, _ = make(sqlite_url, "known", broker)
    async with newer.running():
        await create_tables(newer)
        await publish(newer, OrderPlaced("bad"))

        async def waits() -> bool:
            return bool(await rows(newer, held))

        await wait_until(waits)
        await start(older)


@on_each
async def test_what_watches_flows_in_another_process_is_not_retired(store_url: str) -> None:
    newer, _ = make_service("shop", store_url)
    older, _ = make_service("shop", store_url)
    declare(newer)
    for box in (newer, older):
        for service in (pay, ship, stock):
            service(box)
    async with newer.running():
        await start(older)

        assert "shop/flow-tracker" in await subscribed(newer)
    await start(older)
    async with older:
        assert "shop/flow-tracker" in await subscribed(older), "it may be about to start anew"
        async with older.transaction() as tx:
            await tx.execute(update(members).values(expires_at=members.c.expires_at - DAY))
    await start(older)
    async with older:
        assert "shop/flow-tracker" not in await subscribed(older)


@on_each
async def test_what_is_published_while_the_process_that_watches_starts_anew_is_watched(store_url: str) -> None:
    newer, _ = make_service("shop", store_url)
    older, _ = make_service("shop", store_url)
    declare(newer)
    for box in (newer, older):
        for service in (pay, ship, stock):
            service(box)
    await start(newer)
    async with older.running():
        await place(older, "o-1")
        await wait_until(lambda: _is_done(older))
    await start(older)  # though something waits that nobody here reads
    async with newer.running():
        await has_seen(newer, OrderShipped)


async def _is_done(box: Pillarbox) -> bool:
    return any(row.consumer == "shop/flow-tracker" and row.type == "order.shipped" for row in await rows(box, queue))


@on_each
async def test_what_watched_flows_is_forgotten_by_a_process_that_goes_on_without_any(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowing, "RETIRE_EVERY", timedelta(milliseconds=50))
    newer, _ = make_service("shop", store_url)
    older, _ = make_service("shop", store_url)
    declare(newer)
    for box in (newer, older):
        for service in (pay, ship, stock):
            service(box)
    await start(newer)
    async with older.running():
        assert "shop/flow-tracker" in await subscribed(older)
        async with older.transaction() as tx:
            of_tracker = members.c.scope == "consumer/shop/flow-tracker"
            await tx.execute(update(members).where(of_tracker).values(expires_at=members.c.expires_at - DAY))

        async def is_forgotten() -> bool:
            return "shop/flow-tracker" not in await subscribed(older)

        await wait_until(is_forgotten)


@on_each
async def test_who_takes_part_in_flows_in_another_process_is_not_forgotten(store_url: str) -> None:
    newer, _ = make_service("shop", store_url)
    older, _ = make_service("shop", store_url)
    for service in (pay, ship, stock):
        service(newer)
    pay(older)
    async with newer.running():
        await start(older)

        names = {row.consumer for row in await rows(newer, flow_participants)}
        assert names == {"shop/ask", "shop/charge", "shop/reserve", "shop/ship"}


@on_each
async def test_what_is_known_of_a_dependency_that_another_process_needs_stays(store_url: str) -> None:
    newer, _ = make(store_url, "added", needs="payments")
    older, _ = make(store_url, "known")
    async with newer.running():
        async with newer.transaction() as tx:
            await tx.execute(update(breakers).values(version=3))
        await start(older)

        (one,) = await rows(newer, breakers)
        assert (one.dependency, one.version, one.needed_by) == ("shop/payments", 3, "shop/added")


@on_each
async def test_what_a_process_puts_aside_under_a_name_just_changed_is_taken_over_by_the_next_start(
    store_url: str,
) -> None:
    begun, finish = asyncio.Event(), asyncio.Event()
    older, _ = make_box(store_url)

    @older.on(OrderPlaced, name="old", retry=Retry(attempts=5, immediate=1, first=timedelta(hours=1)))
    async def handle(order: OrderPlaced) -> None:
        begun.set()
        await finish.wait()
        raise ConnectionError("away")

    newer, _ = make(store_url, "new", renamed_from="old")
    async with older.running():
        await create_tables(older)
        await publish(older, OrderPlaced("a"))
        await begun.wait()
        async with newer:  # the name changes, and it does not receive: it would handle the message meanwhile
            await newer._workers(relay=False, consumers=True, sagas=False)
            finish.set()

            async def waits() -> bool:
                return bool(await rows(newer, held))

            await wait_until(waits)

    again, _ = make(store_url, "new", renamed_from="old")
    async with again.running():
        assert [row.consumer for row in await rows(again, held)] in (["shop/new"], [])


@on_each
async def test_a_process_starts_after_one_of_the_release_before_has_gone_on_under_the_old_name(store_url: str) -> None:
    """Both have handled one message, so both inboxes have its id."""
    first, _ = make(store_url, "old")
    newer, happened = make(store_url, "new", renamed_from="old")
    older, happened_there = make(store_url, "old")
    async with first.running():
        await create_tables(first)
    async with newer.running(), older.running(relay=False):
        await publish(newer, OrderPlaced("a"))
        await happened.until(MessageHandled)
        await happened_there.until(MessageHandled)

    again, happenings = make(store_url, "new", renamed_from="old")
    async with again.running():
        await publish(again, OrderPlaced("b"))
        await happenings.until(MessageHandled)
        assert sorted(await noted(again)) == ["new a", "new b", "old a"]
        assert {row.consumer for row in await rows(again, inbox)} == {"shop/new"}


async def test_a_start_leaves_the_subscriptions_of_a_consumer_whose_old_name_its_new_one_begins_with(
    sqlite_url: str,
) -> None:
    """What is published meanwhile by other processes of the same release would not reach it."""
    first, _ = make(sqlite_url, "book")
    newer, _ = make(sqlite_url, "book-2", renamed_from="book")
    await start(first)
    async with newer.running():
        await newer.store.run(newer.store.consumers.rename("shop/book", "shop/book-2"))

        assert await subscribed(newer) == ["shop/book-2"]


@event("order.amended", key="order_id")
@dataclass(frozen=True)
class OrderAmended:
    """An event of the topic of orders that only the newer release knows."""

    order_id: str


@command("order.cancel", queue="orders", key="order_id")
@dataclass(frozen=True)
class CancelOrder:
    """A command that both releases know."""

    order_id: str


@command("order.archive", queue="orders", key="order_id")
@dataclass(frozen=True)
class ArchiveOrder:
    """A command of the same queue that only the newer release knows."""

    order_id: str


KINDS = ("transaction", "outside", "batch", "natural")


def make_releases(url: str, kind: str) -> tuple[tuple[Pillarbox, Happenings], tuple[Pillarbox, Happenings]]:
    """Return the older and the newer release of one consumer, which notes what it handles in the order it does."""
    return make_release(url, kind, OrderPlaced), make_release(url, kind, OrderPlaced, OrderAmended)


def make_release(url: str, kind: str, *types: type[Any]) -> tuple[Pillarbox, Happenings]:
    box, happenings = make_box(url)
    union: Any = types[0] if len(types) == 1 else types[0] | types[1]

    async def record(order: Any, tx: AsyncConnection) -> None:
        await note(tx, f"{type(order).__name__} {order.order_id}")

    async def outside(order: Any) -> None:
        async with box.transaction() as tx:
            await record(order, tx)

    async def batch(orders: list[Any], tx: AsyncConnection) -> None:
        for order in orders:
            await record(order, tx)

    handler: Any = {"outside": outside, "batch": batch}.get(kind, record)
    options: dict[str, dict[str, Any]] = {
        "natural": {"idempotency": "natural"},
        "outside": {"outside": True},
        "batch": {"batch": 10},
    }
    handler.__annotations__[next(iter(handler.__annotations__))] = list[union] if kind == "batch" else union
    box.on(*types, name="book", **options.get(kind, {}))(handler)
    return box, happenings


@on_each
@pytest.mark.parametrize("kind", KINDS)
async def test_a_type_that_only_the_newer_release_handles_waits_for_it_and_keeps_its_key(
    store_url: str, kind: str
) -> None:
    (older, seen), (newer, happened) = make_releases(store_url, kind)
    async with older.running():
        await create_tables(older)
        async with newer:  # it lives, and has not begun to receive
            await newer._workers(relay=False, consumers=True, sagas=False)
            await publish(newer, OrderPlaced("a"), OrderAmended("a"), OrderPlaced("a"), OrderPlaced("b"))
            await seen.until(MessageHeld, 2)
            await seen.until(MessageHandled, 2)
            assert sorted(await noted(newer)) == ["OrderPlaced a", "OrderPlaced b"]
    async with newer.running():
        await happened.until(MessageHandled, 2)

    assert not seen.of(MessageDiscarded)
    async with newer:
        assert [one for one in await noted(newer) if one.endswith("a")] == [
            "OrderPlaced a",
            "OrderAmended a",
            "OrderPlaced a",
        ]


@on_each
async def test_a_type_that_no_release_at_work_handles_is_discarded(store_url: str) -> None:
    (older, happenings), (newer, _) = make_releases(store_url, "transaction")
    async with older.running():
        await create_tables(older)
        async with newer:
            await publish(newer, OrderAmended("a"))
        await happenings.until(MessageDiscarded)


@on_each
async def test_a_command_that_only_the_newer_release_handles_is_no_dead_letter_of_the_older_one(store_url: str) -> None:
    older, seen = make_release(store_url, "transaction", CancelOrder)
    newer, happened = make_release(store_url, "transaction", CancelOrder, ArchiveOrder)
    async with older.running():
        await create_tables(older)
        async with newer:
            await newer._workers(relay=False, consumers=True, sagas=False)
            async with newer.transaction() as tx:
                await newer.send(ArchiveOrder("a"), tx=tx)
            await seen.until(MessageHeld)
    async with newer.running():
        await happened.until(MessageHandled)
        assert await noted(newer) == ["ArchiveOrder a"]


@on_each
async def test_a_process_that_was_taken_for_dead_subscribes_again_when_it_goes_on(store_url: str) -> None:
    newer, _ = make(store_url, "added", needs="payments")
    older, _ = make(store_url, "known")
    async with newer:
        await create_tables(newer)
        workers = await newer._workers(relay=False, consumers=True, sagas=False)
        (membership,) = (one for one in workers if isinstance(one, Membership))
        async with newer.transaction() as tx:
            await tx.execute(update(members).values(expires_at=0))  # it has stood still for longer than its lease
        await start(older)
        assert await subscribed(newer) == ["shop/known"]

        await membership.round()

        assert await subscribed(newer) == ["shop/added", "shop/known"]
        assert [one.dependency for one in await rows(newer, breakers)] == ["shop/payments"]
        assert "shop/added" in {row.consumer for row in await rows(newer, flow_participants)}


@on_each
async def test_a_process_that_may_be_taken_for_dead_before_it_has_said_that_it_lives_subscribes_again(
    store_url: str,
) -> None:
    """Others look at what is committed: they see nothing of a renewal that is under way as the lease ends."""
    newer, _ = make(store_url, "added")
    async with newer:
        workers = await newer._workers(relay=False, consumers=True, sagas=False)
        (membership,) = (one for one in workers if isinstance(one, Membership))
        async with newer.transaction() as tx:
            nearly = SETTINGS.relay.lease * 0.9 // timedelta(microseconds=1)
            await tx.execute(update(members).values(expires_at=members.c.expires_at - nearly))
        await newer.store.run(newer.store.consumers.retire("shop/added"))

        await membership.round()

        assert await subscribed(newer) == ["shop/added"]


async def test_what_a_process_needs_is_declared_at_the_next_round_if_that_has_failed(sqlite_url: str) -> None:
    """Also when it is back: by the next round its membership has held."""
    newer, happenings = make(sqlite_url, "added")
    async with newer:
        parts, asked, declared = newer._parts(), list[bool](), list[int]()

        async def enlist(*, is_back: bool) -> None:
            asked.append(is_back)
            if len(asked) == 2:
                raise StoreUnavailableError(store="SQLite", reason="away")

        async def declare() -> None:
            declared.append(len(asked))
            if len(declared) in {1, 3}:
                raise BrokerUnavailableError(broker="database", reason="away")

        membership = Membership(
            keeper_of(parts, WORKERS, slots=0),
            happenings,
            registry=newer.store.consumers,
            consumers={"shop/added": ["order.placed"]},
            enlist=enlist,
            declare=declare,
        )
        async with membership.joined():
            assert (asked, declared) == ([False], [])
        await membership.round()
        await membership.round()
        assert (asked, declared) == ([False], [1, 1]), "the broker was away when the process began"
        async with newer.transaction() as tx:
            await tx.execute(update(members).values(expires_at=0))
        for error in (StoreUnavailableError, BrokerUnavailableError):
            with pytest.raises(error):
                await membership.round()
        await membership.round()
        await membership.round()

        assert asked == [False, True, True]
        assert declared == [1, 1, 3, 3]


@on_each
async def test_a_process_whose_start_is_refused_keeps_none_of_the_release_at_work_from_starting(store_url: str) -> None:
    """Its consumer would count as one that a process has, until its lease ends, and anew with each of its restarts."""
    older, again, newer = (make_box(store_url)[0] for _ in range(3))
    for box, name in ((older, "known"), (again, "known"), (newer, "added")):

        @box.on(CancelOrder, name=name)
        async def cancel(order: CancelOrder, tx: AsyncConnection) -> None: ...

    async with older.running():
        with pytest.raises(ConfigurationError, match="has the consumer shop/known already"):
            await start(newer)
        await start(again)


@dataclass
class Moves:
    """The state of a saga."""

    order_id: str


@on_each
@pytest.mark.parametrize("why", ["a queue of another consumer", "the steps of a saga"])
async def test_a_process_whose_start_is_refused_has_subscribed_to_nothing(store_url: str, why: str) -> None:
    """What came for it would count as pending of a consumer that is gone: nobody else could start any more."""

    def make_one(step: str, consumer: str) -> tuple[Pillarbox, Saga[Moves]]:
        box, saga = make_box(store_url)[0], Saga("moves", state=Moves)

        async def move(state: Moves, tx: AsyncConnection) -> None:
            raise ConnectionError("away")

        move.__name__ = step
        saga.step(move)
        box.include(saga)
        if consumer != "known" or step != "first":

            @box.on(OrderPlaced, name="added")
            async def add(order: OrderPlaced, tx: AsyncConnection) -> None: ...

        @box.on(CancelOrder, name=consumer)
        async def cancel(order: CancelOrder, tx: AsyncConnection) -> None: ...

        return box, saga

    is_of_queue = why == "a queue of another consumer"
    older, saga = make_one("first", "known")
    newer, _ = make_one("first", "other") if is_of_queue else make_one("another", "known")
    again, _ = make_one("first", "known")
    async with older.running():
        async with older.transaction() as tx:
            await older.sagas.start(saga, Moves("a"), saga_id="a", tx=tx)
        with pytest.raises(ConfigurationError if is_of_queue else InvalidSetupError):
            await start(newer)

        assert "shop/added" not in await subscribed(older)
        await start(again)


class SlowToDeclare(MemoryBroker):
    """Declares when the process that asks has renewed its membership, at the latest after a while."""

    def __init__(self, url: str) -> None:
        super().__init__(clock=SETTINGS.clock)
        self._other = make_box(url)[0]
        self.declared = 0

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        self.declared += 1
        async with self._other:
            before = await self._ends()

            async def is_renewed() -> bool:
                return min(await self._ends()) > max(before)

            await wait_until(is_renewed)
        await super().declare(subscriptions)

    async def _ends(self) -> list[int]:
        return [one.expires_at for one in await rows(self._other, members)]


@on_each
async def test_a_process_whose_broker_takes_long_to_declare_is_not_taken_for_dead(store_url: str) -> None:
    """A lease may end before hundreds of queues are declared, and would so at each time that it declares them again."""
    broker = SlowToDeclare(store_url)
    settings = replace(SETTINGS, relay=RelaySettings(lease=timedelta(seconds=1)))
    box = Pillarbox("shop", store=store_url, broker=broker, settings=settings)

    @box.on(OrderPlaced, name="added")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None: ...

    async with box:
        await box._workers(relay=False, consumers=True, sagas=False)

    assert broker.declared == 1
