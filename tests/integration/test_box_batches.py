"""Handlers of batches on every store: one statement for many messages, and one bad message among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, Retry
from pillarbox.consumer.surroundings import RUN_SIZE
from pillarbox.errors import ConflictError
from pillarbox.observe import MessageDead, MessageHandled
from tests.integration.boxes import OrderPlaced, StockReserved, create_tables, effects, make_box, noted, publish

if TYPE_CHECKING:
    from collections.abc import Sequence

ONCE = Retry(attempts=1)


async def _write(orders: Sequence[OrderPlaced], tx: AsyncConnection) -> None:
    await tx.execute(insert(effects), [{"what": f"{order.order_id} {order.number}"} for order in orders])


async def test_messages_are_handled_in_lists_each_once_and_in_the_order_of_their_keys(store_url: str) -> None:
    box, happenings = make_box(store_url)
    sizes: list[int] = []

    @box.on(OrderPlaced, name="handle", batch=25)
    async def handle(orders: list[OrderPlaced], tx: AsyncConnection) -> None:
        sizes.append(len(orders))
        await _write(orders, tx)

    orders = [OrderPlaced(key, number) for number in range(50) for key in "abc"]
    await box.migrate()
    await create_tables(box)
    await publish(box, *orders)
    async with box.running():
        await happenings.until(MessageHandled, len(orders))

        came = await noted(box)
    assert sorted(came) == sorted(f"{order.order_id} {order.number}" for order in orders)
    for key in "abc":
        assert [one for one in came if one.startswith(key)] == [f"{key} {number}" for number in range(50)]
    assert max(sizes) == 25


async def test_one_bad_message_of_many_is_found_and_the_others_are_handled(store_url: str) -> None:
    box, happenings = make_box(store_url)
    alone: list[int] = []

    @box.on(OrderPlaced, name="handle", batch=100, retry=ONCE)
    async def handle(orders: list[OrderPlaced], tx: AsyncConnection, contexts: list[Context]) -> None:
        await _write(orders, tx)
        if len(orders) == 1:
            alone.append(contexts[0].attempt)
        if any(order.number == 13 for order in orders):
            raise ValueError("thirteen")

    await box.migrate()
    await create_tables(box)
    await publish(box, *(OrderPlaced(f"k{number}", number) for number in range(60)))
    async with box.running():
        await happenings.until(MessageHandled, 59)
        await happenings.until(MessageDead)

        (letter,) = await box.dead_letters.list()
        assert (letter.attempts, letter.reason) == (1, "exhausted")
        assert letter.message.key == "k13"
        assert sorted(await noted(box)) == sorted(f"k{number} {number}" for number in range(60) if number != 13)
    assert set(alone) == {1}


async def test_what_is_published_follows_from_the_message_whose_context_published_it(store_url: str) -> None:
    box, happenings = make_box(store_url)
    causes: dict[str, tuple[str | None, str]] = {}

    @box.on(OrderPlaced, name="handle", batch=10)
    async def handle(orders: list[OrderPlaced], tx: AsyncConnection, contexts: list[Context]) -> None:
        for order, context in zip(orders, contexts, strict=True):
            await context.publish(StockReserved(order.order_id))
            causes[order.order_id] = (context.message_id, context.correlation_id)

    came: dict[str, tuple[str | None, str]] = {}

    @box.on(StockReserved, name="look")
    async def look(reserved: StockReserved, tx: AsyncConnection, ctx: Context) -> None:
        came[reserved.order_id] = (ctx.causation_id, ctx.correlation_id)

    async with box.running():
        await publish(box, *(OrderPlaced(f"k{number}") for number in range(12)))
        await happenings.until(MessageHandled, 12, consumer="look")
    assert came == causes


async def test_a_conflict_of_a_batch_is_nobodys_attempt(store_url: str) -> None:
    box, happenings = make_box(store_url)
    conflicts = 0

    @box.on(OrderPlaced, name="handle", batch=100, retry=ONCE)
    async def handle(orders: list[OrderPlaced], tx: AsyncConnection) -> None:
        nonlocal conflicts
        if conflicts < 3:
            conflicts += 1
            raise ConflictError("try again")
        await _write(orders, tx)

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(f"k{number}", number) for number in range(10)))
        await happenings.until(MessageHandled, 10)
    assert not happenings.of(MessageDead)


async def test_a_plain_function_gets_lists_in_its_thread(store_url: str) -> None:
    box, happenings = make_box(store_url)

    @box.on(OrderPlaced, name="handle", batch=10)
    def handle(orders: list[OrderPlaced], tx: Connection) -> None:
        tx.execute(insert(effects), [{"what": order.order_id} for order in orders])

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(f"k{number}") for number in range(5)))
        await happenings.until(MessageHandled, 5)
        assert sorted(await noted(box)) == [f"k{number}" for number in range(5)]


async def test_a_batch_may_be_larger_than_what_other_consumers_handle_at_once(sqlite_url: str) -> None:
    box, happenings = make_box(sqlite_url)
    sizes: list[int] = []

    @box.on(OrderPlaced, name="handle", batch=150)
    async def handle(orders: list[OrderPlaced], tx: AsyncConnection) -> None:
        sizes.append(len(orders))

    await box.migrate()
    await publish(box, *(OrderPlaced(f"k{number}") for number in range(400)))
    async with box.running():
        await happenings.until(MessageHandled, 400)
    assert RUN_SIZE < max(sizes) <= 150
