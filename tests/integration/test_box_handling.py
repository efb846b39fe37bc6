"""What handlers get and give: transactions of every kind, injected things, returned messages."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import pytest
from msgspec import structs
from sqlalchemy import Connection, Integer, String, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pillarbox import Context, Retry
from pillarbox.errors import StoreUnavailableError
from pillarbox.observe import DuplicateSuppressed, MessageDead, MessageHandled
from tests.integration.boxes import (
    ChargePayment,
    OrderPlaced,
    StockReserved,
    create_tables,
    effects,
    make_box,
    note,
    note_sync,
    noted,
    publish,
)
from tests.messages import message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.transaction import Program

ONCE = Retry(attempts=1)


class Base(DeclarativeBase):
    """The models of this module."""


class Effect(Base):
    """A row of the effects, mapped."""

    __tablename__ = "effects"
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    what: Mapped[str] = mapped_column(String(200))


@dataclass
class Payments:
    """Something that a box provides."""

    name: str


async def test_returned_messages_are_flattened_and_published(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="answer")
    async def answer(order: OrderPlaced, tx: AsyncConnection) -> list[object]:
        return [StockReserved(order.order_id, 1), (StockReserved(order.order_id, 2), None, [ChargePayment("o")])]

    @box.on(StockReserved, name="hear")
    async def hear(stock: StockReserved, tx: AsyncConnection) -> None:
        await note(tx, f"heard {stock.number}")

    @box.on(ChargePayment, name="charge")
    async def charge(command: ChargePayment, tx: AsyncConnection, ctx: Context) -> None:
        await note(tx, f"charged {command.order_id}, hop {ctx.headers['hop']}")

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageHandled, 4)

        assert sorted(await noted(box)) == ["charged o, hop 1", "heard 1", "heard 2"]


@pytest.mark.parametrize("nonsense", [42, object()], ids=["plain value", "no message"])
async def test_a_returned_value_that_is_no_message_fails_the_attempt_for_good(store_url: str, nonsense: object) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="answer", retry=Retry(attempts=5))
    async def answer(order: OrderPlaced, tx: AsyncConnection) -> object:
        await note(tx, "must not stay")
        return nonsense

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("a"))
        (dead,) = await happenings.until(MessageDead)

        assert (dead.reason, dead.attempts, await noted(box)) == ("permanent", 1, [])
        (letter,) = await box.dead_letters.list()
        assert letter.error_type == "InvalidReturnError"


async def test_an_asynchronous_session_is_flushed_after_the_handler(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="write")
    async def write(order: OrderPlaced, session: AsyncSession) -> None:
        session.add(Effect(what=order.order_id))

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("a"), OrderPlaced("b"))
        await happenings.until(MessageHandled, 2)

        assert sorted(await noted(box)) == ["a", "b"]


async def test_a_session_is_flushed_after_a_plain_handler(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="write")
    def write(order: OrderPlaced, session: Session) -> StockReserved:
        session.add(Effect(what=f"{order.order_id}, loop thread: {threading.current_thread() is main}"))
        return StockReserved(order.order_id)

    @box.on(StockReserved, name="hear")
    def hear(stock: StockReserved, tx: Connection) -> None:
        note_sync(tx, f"heard {stock.order_id}")

    main = threading.current_thread()
    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageHandled, 2)

        assert await noted(box) == ["a, loop thread: False", "heard a"]


async def test_a_flush_that_fails_fails_the_attempt(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="write", retry=ONCE)
    async def write(order: OrderPlaced, session: AsyncSession) -> None:
        session.add(Effect(number=1, what=order.order_id))

    async with box.running():
        await create_tables(box)
        async with box.transaction() as tx:
            await tx.execute(insert(effects).values(number=1, what="there before"))
        await publish(box, OrderPlaced("a"), OrderPlaced("b"))
        await happenings.until(MessageDead, 2)

        assert await noted(box) == ["there before"]
        assert {letter.error_type for letter in await box.dead_letters.list()} == {"IntegrityError"}


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("lent", ["connection", "session", "plain connection"])
async def test_a_handler_that_ends_the_transaction_it_was_lent_is_dead(store_url: str, ending: str, lent: str) -> None:
    """Its neighbours in the run lose neither their effects nor what they publish."""
    box, happenings = make_box(store_url)
    if lent == "connection":

        @box.on(OrderPlaced, name="end", retry=Retry(attempts=5), concurrency=1)
        async def end(order: OrderPlaced, tx: AsyncConnection) -> StockReserved:
            await note(tx, order.order_id)
            if order.order_id == "ends it":
                await getattr(tx, ending)()
            return StockReserved(order.order_id)
    elif lent == "session":

        @box.on(OrderPlaced, name="end", retry=Retry(attempts=5), concurrency=1)
        async def end_session(order: OrderPlaced, session: AsyncSession) -> StockReserved:
            await session.execute(insert(effects).values(what=order.order_id))
            if order.order_id == "ends it":
                await getattr(await session.connection(), ending)()
            return StockReserved(order.order_id)
    else:

        @box.on(OrderPlaced, name="end", retry=Retry(attempts=5), concurrency=1)
        def end_plain(order: OrderPlaced, tx: Connection) -> StockReserved:
            note_sync(tx, order.order_id)
            if order.order_id == "ends it":
                getattr(tx, ending)()
            return StockReserved(order.order_id)

    @box.on(StockReserved, name="hear")
    async def hear(stock: StockReserved, tx: AsyncConnection) -> None:
        await note(tx, f"answered {stock.order_id}")

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(key) for key in ("a", "ends it", "b")))
        await happenings.until_settled(5)

        (letter,) = await box.dead_letters.list()
        assert (letter.reason, letter.attempts, letter.error_type) == ("permanent", 1, "TransactionEndedError")
        assert letter.message.key == "ends it"
        assert sorted(await noted(box)) == ["a", "answered a", "answered b", "b"]


async def test_a_session_of_the_handlers_may_commit_since_the_run_decides(store_url: str) -> None:
    """``rollback_only``: a commit of the session is no commit of the transaction."""
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="write", retry=ONCE)
    async def write(order: OrderPlaced, session: AsyncSession) -> None:
        session.add(Effect(what=order.order_id))
        await session.commit()
        if order.order_id == "bad":
            raise ValueError("after the commit")

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("good"), OrderPlaced("bad"))
        await happenings.until(MessageHandled)
        await happenings.until(MessageDead)

        assert await noted(box) == ["good"]


async def test_a_savepoint_undoes_a_part(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="write")
    async def write(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, "stays")
        savepoint = await tx.begin_nested()
        await note(tx, "goes")
        await savepoint.rollback()

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageHandled)

        assert await noted(box) == ["stays"]


async def test_handlers_without_a_transaction_talk_to_the_outside(store_url: str) -> None:
    box, happenings = make_box(store_url)
    calls: list[str] = []

    @box.on(OrderPlaced, name="call")
    async def call(order: OrderPlaced, ctx: Context) -> StockReserved:
        calls.append(ctx.idempotency_key("charge"))
        return StockReserved(order.order_id)

    @box.on(StockReserved, name="call-plain")
    def call_plain(stock: StockReserved) -> None:
        calls.append(f"plain {stock.order_id}")

    async with box.running():
        await publish(box, OrderPlaced("a"))
        handled = await happenings.until(MessageHandled, 2)

    assert calls == [f"shop/call:{handled[0].message_id}:charge", "plain a"]


@pytest.mark.parametrize("idempotency", ["inbox", "natural"])
async def test_a_handler_without_a_transaction_has_left_its_trace_when_it_is_called(
    store_url: str, idempotency: Literal["inbox", "natural"]
) -> None:
    """By which a process that it ends is told from one that ends by itself."""
    box, happenings = make_box(store_url)
    traces: list[list[str]] = []

    @box.on(OrderPlaced, name="call", idempotency=idempotency, outside=True)
    async def call(order: OrderPlaced) -> None:
        async with box.transaction() as tx:
            traces.append(list(await tx.scalars(text("SELECT message_id FROM pillarbox_attempts"))))

    async with box.running():
        await publish(box, OrderPlaced("a"))
        handled = await happenings.until(MessageHandled)
        async with box.transaction() as tx:
            left = list(await tx.scalars(text("SELECT message_id FROM pillarbox_attempts")))

    assert traces == [[handled[0].message_id]]
    assert left == []


async def test_what_a_box_provides_is_injected_and_can_be_overridden(store_url: str) -> None:
    box, happenings = make_box(store_url)
    box.provide(Payments, lambda: Payments("real"))
    seen: list[str] = []

    @box.on(OrderPlaced, name="async")
    async def awaited(order: OrderPlaced, payments: Payments) -> None:
        seen.append(payments.name)

    @box.on(OrderPlaced, name="sync")
    def plain(order: OrderPlaced, tx: Connection, payments: Payments) -> None:
        seen.append(payments.name)

    async with box.running():
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageHandled, 2)
        box.override(Payments, Payments("fake"))
        await publish(box, OrderPlaced("a"))
        await happenings.until(MessageHandled, 4)

    assert seen == ["real", "real", "fake", "fake"]


@pytest.mark.parametrize("broker", ["database://", "memory://"])
async def test_a_message_that_comes_twice_is_handled_once(store_url: str, broker: str) -> None:
    box, happenings = make_box(store_url, broker=broker)

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, order.order_id)

    @box.on(OrderPlaced, name="outside")
    async def outside(order: OrderPlaced) -> None: ...

    async with box.running():
        await create_tables(box)
        twice = message("m1")
        await box.broker.sender().send([twice, twice])
        await happenings.until(MessageHandled, 2)
        await box.broker.sender().send([twice])
        await happenings.until(DuplicateSuppressed, 4)

        assert await noted(box) == ["o-1"]
        assert len(happenings.of(MessageHandled, "outside")) == 1


async def test_where_handling_is_idempotent_by_nature_no_inbox_is_kept(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="handle", idempotency="natural")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, order.order_id)

    async with box.running():
        await create_tables(box)
        for count in (1, 2):
            await box.broker.sender().send([message("m1")])
            await happenings.until(MessageHandled, count)

        assert await noted(box) == ["o-1", "o-1"]
        async with box.transaction() as tx:
            assert (await tx.scalar(text("SELECT count(*) FROM pillarbox_inbox"))) == 0


async def test_quick_calls_that_may_be_repeated_share_their_transactions(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each of them publishes goes out, what one of them fails at waits, and what follows in its key.

    At least once: a call whose outcome comes too late for its lease, on a busy machine, is made again.
    """
    box, happenings = make_box(store_url)
    called: list[str] = []
    clear, closings = box.store.attempts.clear, 0

    def counted(consumer: str, message_ids: Sequence[str]) -> Program[None]:
        nonlocal closings
        closings += consumer == "shop/call"
        return clear(consumer, message_ids)

    monkeypatch.setattr(box.store.attempts, "clear", counted)

    @box.on(OrderPlaced, name="call", idempotency="natural", retry=ONCE, concurrency=1)
    async def call(order: OrderPlaced) -> StockReserved:
        if order.number == 7:
            raise ValueError(order.number)
        called.append(f"{order.order_id} {order.number}")
        return StockReserved(order.order_id, order.number)

    @box.on(StockReserved, name="note")
    async def hear(reserved: StockReserved, tx: AsyncConnection) -> None:
        await note(tx, f"{reserved.order_id} {reserved.number}")

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(f"o-{number % 5}", number) for number in range(200)))
        await happenings.until(MessageDead)
        expected = [f"o-{number % 5} {number}" for number in range(200) if number % 5 != 2 or number < 7]
        await happenings.until(MessageHandled, len(expected), consumer="note")

        assert set(await noted(box)) == set(expected)
        assert set(called) == set(expected)
        assert [letter.message.key for letter in await box.dead_letters.list()] == ["o-2"]
    assert closings <= len(called) / 2


async def test_calls_whose_outcome_could_not_be_written_are_made_again(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, happenings = make_box(store_url)
    calls: list[int] = []
    clear, closings = box.store.attempts.clear, 0

    def failing_at_first(consumer: str, message_ids: Sequence[str]) -> Program[None]:
        nonlocal closings
        closings += 1
        if closings == 1:
            raise StoreUnavailableError(store="here", reason="gone right before the commit")
        return clear(consumer, message_ids)

    monkeypatch.setattr(box.store.attempts, "clear", failing_at_first)

    @box.on(OrderPlaced, name="call", idempotency="natural")
    async def call(order: OrderPlaced) -> None:
        calls.append(order.number)

    async with box.running():
        await publish(box, *(OrderPlaced("o-1", number) for number in range(3)))
        await happenings.until(MessageHandled, 3)

    assert calls[-3:] == [0, 1, 2]
    assert len(calls) > 3


async def test_a_handler_that_takes_too_long_has_failed_and_its_writes_are_gone(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="hang", retry=ONCE, timeout=timedelta(milliseconds=50))
    async def hang(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, order.order_id)
        if order.order_id == "slow":
            await asyncio.Event().wait()

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("slow"), OrderPlaced("fast"))
        await happenings.until(MessageDead)
        await happenings.until(MessageHandled)

        assert await noted(box) == ["fast"]
        (letter,) = await box.dead_letters.list()
        assert letter.error_type == "TimeoutError"


async def test_events_of_one_topic_that_nobody_handles_are_discarded(store_url: str) -> None:
    box, happenings = make_box(store_url)
    seen: list[str] = []

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced) -> None:
        seen.append(order.order_id)

    async with box.running():
        stranger = structs.replace(message("m1"), type="order.unheard-of")
        await box.broker.sender().send([stranger, message("m2")])
        await happenings.until(MessageHandled)
        held = await box.store.run(box.store.holding.state())

        assert (seen, held.messages, await box.dead_letters.count()) == (["o-1"], 0, 0)


async def test_the_relay_and_the_consumers_may_run_in_different_processes(sqlite_url: str) -> None:
    """Two boxes on one file stand for two processes."""
    relaying, _ = make_box(sqlite_url)
    consuming, happenings = make_box(sqlite_url)

    @consuming.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, order.order_id)

    async with consuming.running(relay=False), relaying.running(consumers=False):
        await create_tables(consuming)
        await publish(relaying, OrderPlaced("a"))
        await happenings.until(MessageHandled)

        assert await noted(consuming) == ["a"]
