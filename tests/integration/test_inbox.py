"""What inboxes know again, what that saves, and for how long they remember."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry, event
from pillarbox.app.controlling import control_of
from pillarbox.deadletter import DeadLetterFilter, DeadLetterState, RunState
from pillarbox.errors import PermanentError, ReplayTooLateError, StoreUnavailableError
from pillarbox.idempotency.upkeep import SCOPE, InboxUpkeep
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.message import new_message_id
from pillarbox.observe import DuplicateSuppressed, InboxPurged, MessageDead, MessageHandled, WorkerFaltered
from pillarbox.relational.tables import dead_letters
from pillarbox.testing import Harness
from tests.fault.copying import CopyingBroker
from tests.integration.boxes import (
    SETTINGS,
    Happenings,
    OrderPlaced,
    StockReserved,
    create_tables,
    make_box,
    note,
    note_sync,
    noted,
    publish,
    tables,
)
from tests.messages import message
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.message import Message

AT_ONCE = timedelta(0)
MOMENT = timedelta(microseconds=1)
IDS = ["Msg1", "mSG1", "x", "x ", "i" * 199 + "1", "i" * 199 + "2"]


@event("payment.received", key="account")
@dataclass(frozen=True)
class PaymentReceived:
    """A payment; the bank tells of it more than once, each time with an id of its own."""

    account: str
    payment_id: str | None


Declare = Callable[..., None]


def in_the_transaction(box: Pillarbox, kind: type[Any], what: Callable[[Any], str], **options: Any) -> None:
    @box.on(kind, name="book", **options)
    async def book(payload: Any, tx: AsyncConnection) -> StockReserved:
        await note(tx, what(payload))
        return StockReserved("o")


def in_a_thread(box: Pillarbox, kind: type[Any], what: Callable[[Any], str], **options: Any) -> None:
    @box.on(kind, name="book", **options)
    def book(payload: Any, tx: Connection) -> StockReserved:
        note_sync(tx, what(payload))
        return StockReserved("o")


def outside(box: Pillarbox, kind: type[Any], what: Callable[[Any], str], **options: Any) -> None:
    @box.on(kind, name="book", outside=True, **options)
    async def book(payload: Any) -> StockReserved:
        async with box.transaction() as elsewhere:
            await note(elsewhere, what(payload))
        return StockReserved("o")


every_way = pytest.mark.parametrize("declare", [in_the_transaction, in_a_thread, outside])


def delivering(url: str, messages: list[Message]) -> tuple[Pillarbox, Happenings, CopyingBroker]:
    """A box that is given ``messages`` when the gate of the broker opens, and no others."""
    broker = CopyingBroker(messages, asyncio.Event())
    box = Pillarbox("shop", store=url, broker=broker, settings=SETTINGS)
    happenings = Happenings()
    box.observe(happenings)
    return box, happenings, broker


async def published(box: Pillarbox) -> int:
    """How many messages wait for a relay: there is none."""
    return (await control_of(box.store).outbox.state()).pending


# --- what is known again ---


@every_way
async def test_a_duplicate_publishes_nothing_again(store_url: str, declare: Declare) -> None:
    copies = [message(identity, key=identity) for identity in ("m1", "m2", "m1", "m1")] * 2
    box, happenings, broker = delivering(store_url, copies)
    declare(box, OrderPlaced, lambda order: order.order_id)

    async with box.running(relay=False):
        await create_tables(box)
        broker.gate.set()
        await wait_until(lambda: len(broker.accepted) == 8)

        assert len(await noted(box)) == await published(box) == 2
        assert len(happenings.of(DuplicateSuppressed)) == 6


async def test_ids_that_only_look_alike_are_different_messages(store_url: str) -> None:
    box, happenings, broker = delivering(store_url, [message(identity, key=None) for identity in IDS] * 2)
    in_the_transaction(box, OrderPlaced, lambda _: "effect")

    async with box.running(relay=False):
        await create_tables(box)
        broker.gate.set()
        await wait_until(lambda: len(broker.accepted) == 12)

        assert len(await noted(box)) == await published(box) == 6
        assert len(happenings.of(MessageHandled)) == len(happenings.of(DuplicateSuppressed)) == 6


# --- business keys ---


@every_way
async def test_messages_of_one_business_key_have_one_effect(store_url: str, declare: Declare) -> None:
    box, happenings = make_box(store_url)
    declare(box, PaymentReceived, lambda payment: payment.payment_id, dedupe_by="payment_id")

    async with box.running():
        await create_tables(box)
        await publish(box, *(PaymentReceived(account, "p-1") for account in "aabc"), PaymentReceived("a", "p-2"))
        await happenings.until(DuplicateSuppressed, 3)
        await publish(box, PaymentReceived("d", "p-1"), PaymentReceived("d", "p-3"))
        await happenings.until(MessageHandled, 3)
        await happenings.until(DuplicateSuppressed, 4)

        assert sorted(await noted(box)) == ["p-1", "p-2", "p-3"]
        (count,) = await control_of(box.store).inbox.stats()
        assert (count.ids, count.business_keys) == (7, 3)


@every_way
async def test_a_message_without_its_business_key_is_a_dead_letter_that_says_so(declare: Declare) -> None:
    box, happenings = make_box("memory://")
    declare(box, PaymentReceived, lambda payment: str(payment.payment_id), dedupe_by="payment_id")

    async with box.running():
        await create_tables(box)
        await publish(box, PaymentReceived("a", None), PaymentReceived("b", "p-1"))
        await happenings.until(MessageDead)
        await happenings.until(MessageHandled)

        (letter,) = await box.dead_letters.list()
        assert (letter.reason, letter.attempts, await noted(box)) == ("no-business-key", 0, ["p-1"])
        assert "'shop/book' knows duplicates by a business key" in letter.error
        assert "'payment_id': it is None" in letter.error


async def test_what_failed_leaves_its_business_key_to_the_next(store_url: str) -> None:
    await leave_to_the_next(store_url, in_the_transaction)


@pytest.mark.parametrize("declare", [in_a_thread, outside])
async def test_what_failed_elsewhere_leaves_its_business_key_to_the_next(declare: Declare) -> None:
    await leave_to_the_next("memory://", declare)


async def leave_to_the_next(store_url: str, declare: Declare) -> None:
    """Have a message fail, one of the same business key succeed, and the first one replayed."""
    box, happenings = make_box(store_url)
    mood = {"bad": True}

    def what(payment: PaymentReceived) -> str:
        if payment.account == "a" and mood["bad"]:
            raise PermanentError("this account is closed")
        return f"{payment.account} {payment.payment_id}"

    declare(box, PaymentReceived, what, dedupe_by="payment_id")

    async with box.running():
        await create_tables(box)
        await publish(box, PaymentReceived("a", "p-1"))
        await happenings.until(MessageDead)
        await publish(box, PaymentReceived("b", "p-1"))
        await happenings.until(MessageHandled)
        mood["bad"] = False
        (letter,) = await box.dead_letters.list()
        await box.dead_letters.replay(letter.id, by="me")
        await happenings.until(DuplicateSuppressed)

        assert await noted(box) == ["b p-1"]
        await wait_until(lambda: _is_resolved(box, letter.id))


async def _is_resolved(box: Pillarbox, letter_id: int) -> bool:
    return (await box.dead_letters.get(letter_id)).state is DeadLetterState.RESOLVED


# --- for how long ---


def upkeep(box: Pillarbox, keep: timedelta = MOMENT, *, every: timedelta = timedelta(minutes=1)) -> InboxUpkeep:
    """What a process of the box does about old ids."""
    store, terms = box.store, LeaseTerms(scope=SCOPE, slots=1)
    return InboxUpkeep(
        inbox=store.inbox,
        others=[store.attempts.purge, store.claims.purge],
        keep=keep,
        keeper=LeaseKeeper(terms, new_message_id(), store=store.leases, source=store, clock=box.settings.clock),
        observer=box.observers,
        every=every,
    )


async def remember(box: Pillarbox, count: int) -> None:
    """Record so many ids."""
    await box.store.run(box.store.inbox.record("shop/book", [f"m{number}" for number in range(count)]))


async def remembered(box: Pillarbox) -> int:
    return sum(count.ids for count in await control_of(box.store).inbox.stats())


async def test_old_ids_are_removed_and_young_ones_stay(store_url: str) -> None:
    box, happenings = make_box(store_url)

    async with box:
        await remember(box, 2500)
        await upkeep(box, timedelta(hours=1)).round()
        assert (await remembered(box), happenings.of(InboxPurged)) == (2500, [])

        await upkeep(box).round()

        assert await remembered(box) == 0
        assert [(one.ids, one.leftovers) for one in happenings.of(InboxPurged)] == [(2500, 0)]


async def test_what_dead_workers_left_is_removed_too(store_url: str) -> None:
    box, happenings = make_box(store_url)

    async with box:
        await box.store.run(box.store.attempts.start("shop/book", ["m1"], worker="dead"))
        await box.store.run(box.store.claims.claim("shop/book", ["m2"], token="dead", ttl=AT_ONCE))

        await upkeep(box).round()

        assert [(one.ids, one.leftovers) for one in happenings.of(InboxPurged)] == [(0, 2)]


async def test_one_process_at_a_time_removes_and_gives_the_turn_back(store_url: str) -> None:
    box, _ = make_box(store_url)
    terms = LeaseTerms(scope=SCOPE, slots=1)

    async with box:
        await remember(box, 10)
        await box.store.run(box.store.leases.heartbeat(terms, "another process"))
        mine = upkeep(box)
        await mine.round()
        assert await remembered(box) == 10

        await box.store.run(box.store.leases.leave(terms, "another process"))
        await mine.round()

        assert await remembered(box) == 0
        assert (await box.store.run(box.store.leases.heartbeat(terms, "another process"))).tokens


async def test_a_running_box_forgets_what_is_old_by_itself() -> None:
    box, told = Pillarbox("shop", store="memory://"), Happenings()
    box.observe(told)
    in_the_transaction(box, OrderPlaced, lambda order: order.order_id)

    async with Harness(box, tables=tables) as harness:
        await harness.publish(OrderPlaced("a"))
        await harness.until_quiet()
        await harness.advance(timedelta(days=29))
        assert told.of(InboxPurged) == []

        await harness.advance(timedelta(days=2))

        async def is_told() -> bool:
            await harness.advance(timedelta(minutes=1))
            return bool(told.of(InboxPurged))

        await wait_until(is_told)
        assert told.of(InboxPurged) == [InboxPurged(ids=1, leftovers=0)]


async def test_a_database_that_is_away_does_not_end_the_upkeep(monkeypatch: pytest.MonkeyPatch) -> None:
    box, told = make_box("memory://")
    mine = upkeep(box, every=timedelta(milliseconds=1))

    async def away(_: object) -> None:
        raise StoreUnavailableError(store="SQLite", reason="gone")

    monkeypatch.setattr(box.store, "run", away)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(mine.run())
        await told.until(WorkerFaltered, 2)
        mine.stop()
        await running


# --- replays ---


async def test_a_letter_older_than_the_inbox_is_sure_to_remember_is_replayed_by_force_only(store_url: str) -> None:
    box, happenings = make_box(store_url)
    mood = {"bad": True}

    @box.on(OrderPlaced, name="book", retry=Retry(attempts=1))
    async def book(order: OrderPlaced, tx: AsyncConnection) -> None:
        if mood["bad"]:
            raise ValueError("not in this mood")

    async with box.running():
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageDead)
        mood["bad"] = False
        (letter,) = await box.dead_letters.list()
        async with box.transaction() as tx:
            earlier = dead_letters.c.last_failed_at - 15 * 24 * 3600 * 10**6
            await tx.execute(update(dead_letters).values(last_failed_at=earlier))

        with pytest.raises(ReplayTooLateError, match="--force") as refused:
            await box.dead_letters.replay(letter.id, by="me")

        assert (refused.value.letter_id, refused.value.dead_for.days) == (letter.id, 15)
        assert (await box.dead_letters.get(letter.id)).state is DeadLetterState.DEAD
        run = await box.dead_letters.replay_all(DeadLetterFilter(), by="me")
        assert run.terms.within == timedelta(days=14)

        async def has_ended() -> bool:
            return (await box.dead_letters.run(run.id)).state is not RunState.OPEN

        await wait_until(has_ended)
        assert (await box.dead_letters.get(letter.id)).state is DeadLetterState.DEAD
        await box.dead_letters.replay(letter.id, by="me", force=True)
        await happenings.until(MessageHandled)
