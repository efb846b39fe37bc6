"""Handlers of one run that write and then fail: what they wrote is taken back, that of their neighbours stands."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from pillarbox import Retry
from pillarbox.consumer.item import Item
from pillarbox.consumer.worker import ConsumerWorker
from pillarbox.errors import ConflictError
from pillarbox.holding import hold_key_of
from pillarbox.observe import RunRolledBack
from pillarbox.ordering import RunSize
from pillarbox.serialization import JsonCodec
from tests.integration.boxes import OrderPlaced, create_tables, effects, make_box, noted
from tests.messages import message

if TYPE_CHECKING:
    from pillarbox import Pillarbox

ONCE = Retry(attempts=1)
COUNT = 12
TWICE = 1_000_000
"""The number of an effect that is there already."""
MENDED = {2: "raises", 5: "breaks a constraint", 6: "raises", 9: "breaks a constraint"}
"""What a savepoint mends, by the number of the order."""
SPOILT = {
    1: "raises",
    3: "ends the transaction",
    4: "raises",
    7: "closes its connection",
    8: "leaves a savepoint open",
    10: "raises",
}


class Harms:
    """Does to its connection what a handler should not."""

    def __init__(self, harms: dict[int, str]) -> None:
        self._harms = harms

    async def befall(self, tx: AsyncConnection, number: int) -> None:
        match self._harms.get(number):
            case None:
                return
            case "breaks a constraint":
                await tx.execute(insert(effects).values(number=TWICE, what="twice"))
            case "ends the transaction":
                await tx.rollback()
            case "leaves a savepoint open":
                await tx.begin_nested()
            case "closes its connection":
                await tx.close()
            case _:
                pass
        raise ValueError(f"not {number}")

    def befall_sync(self, tx: Connection, number: int) -> None:
        match self._harms.get(number):
            case None:
                return
            case "breaks a constraint":
                tx.execute(insert(effects).values(number=TWICE, what="twice"))
            case "ends the transaction":
                tx.rollback()
            case "leaves a savepoint open":
                tx.begin_nested()
            case "closes its connection":
                tx.close()
            case _:
                pass
        raise ValueError(f"not {number}")


def declare(box: Pillarbox, harms: Harms, shape: str) -> None:
    """Declare a handler of that shape that writes before it comes to harm."""
    match shape:
        case "connection":

            @box.on(OrderPlaced, name="handle", retry=ONCE)
            async def connection(order: OrderPlaced, tx: AsyncConnection) -> None:
                await tx.execute(insert(effects).values(what=str(order.number)))
                await harms.befall(tx, order.number)

        case "session":

            @box.on(OrderPlaced, name="handle", retry=ONCE)
            async def session(order: OrderPlaced, tx: AsyncSession) -> None:
                await tx.execute(insert(effects).values(what=str(order.number)))
                await harms.befall(await tx.connection(), order.number)

        case "connection in a thread":

            @box.on(OrderPlaced, name="handle", retry=ONCE)
            def connection_sync(order: OrderPlaced, tx: Connection) -> None:
                tx.execute(insert(effects).values(what=str(order.number)))
                harms.befall_sync(tx, order.number)

        case _:

            @box.on(OrderPlaced, name="handle", retry=ONCE)
            def session_sync(order: OrderPlaced, tx: Session) -> None:
                tx.execute(insert(effects).values(what=str(order.number)))
                harms.befall_sync(tx.connection(), order.number)


async def arrive(box: Pillarbox) -> None:
    """Handle some orders, each of its own key, in one batch as a lane does."""
    (consumer,) = box.consumers()
    worker, *_ = box._parts().consumer_workers(consumer)
    assert isinstance(worker, ConsumerWorker)
    codec, items = JsonCodec(), list[Item]()
    for number in range(COUNT):
        carried = message(f"m{number}", key=f"k{number}", body=codec.encode(OrderPlaced(f"k{number}", number)))
        items.append(Item(message=carried, hold_key=hold_key_of(carried, ordered=True)))
    await worker._process.handle(items, intake=worker._intake, size=RunSize(largest=COUNT))


@pytest.mark.parametrize("shape", ["connection", "session", "connection in a thread", "session in a thread"])
@pytest.mark.parametrize("harms", [MENDED, SPOILT], ids=["mended", "spoilt"])
async def test_what_failed_handlers_wrote_is_taken_back_and_the_others_have_their_effect_once(
    store_url: str, shape: str, harms: dict[int, str]
) -> None:
    box, happenings = make_box(store_url, broker="memory://")
    declare(box, Harms(harms), shape)

    async with box.running(relay=False, consumers=False):
        await create_tables(box)
        async with box.transaction() as tx:
            await tx.execute(insert(effects).values(number=TWICE, what="before"))
        await arrive(box)
        came, letters = await noted(box), await box.dead_letters.list()

    good = [str(number) for number in range(COUNT) if number not in harms]
    assert sorted(came) == sorted([*good, "before"])
    assert sorted(int(letter.message.id[1:]) for letter in letters) == sorted(harms)
    assert {letter.attempts for letter in letters} == {1}
    rolled_back = happenings.of(RunRolledBack)
    assert (len(rolled_back) == 1) == (harms is MENDED)
    assert {one.cause for one in rolled_back} == {"handler"}


@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK", "CREATE TABLE beside (a INTEGER)"])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_statement_that_would_end_the_transaction_is_refused_and_the_neighbours_have_their_effect(
    store_url: str, statement: str, in_thread: bool
) -> None:
    """Once the run's inbox is committed, its other messages would pass for duplicates."""
    box, _ = make_box(store_url, broker="memory://")
    if in_thread:

        @box.on(OrderPlaced, name="handle", retry=ONCE)
        def handle_sync(order: OrderPlaced, tx: Connection) -> None:
            tx.execute(insert(effects).values(what=str(order.number)))
            if order.number == 3:
                tx.execute(text(statement))
                raise ValueError("not 3")
    else:

        @box.on(OrderPlaced, name="handle", retry=ONCE)
        async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
            await tx.execute(insert(effects).values(what=str(order.number)))
            if order.number == 3:
                await tx.execute(text(statement))
                raise ValueError("not 3")

    async with box.running(relay=False, consumers=False):
        await create_tables(box)
        await arrive(box)
        came, (letter,) = await noted(box), await box.dead_letters.list()

    assert sorted(map(int, came)) == [number for number in range(COUNT) if number != 3]
    is_refused = not statement.startswith("CREATE") or box.store.name == "MariaDB"
    assert letter.error_type == ("TransactionEndedError" if is_refused else "ValueError")
    assert letter.message.id == "m3"


@pytest.mark.parametrize("harm", ["passes over a failure", "passes over a lost connection"])
@pytest.mark.parametrize("in_thread", [False, True])
async def test_what_a_handler_passes_over_is_no_failure_of_its_neighbours(
    store_url: str, harm: str, in_thread: bool
) -> None:
    """PostgreSQL takes nothing more in a transaction in which a statement has failed."""
    box, _ = make_box(store_url, broker="memory://")
    bad = {3, 7}
    if in_thread:

        @box.on(OrderPlaced, name="handle", retry=ONCE)
        def handle_sync(order: OrderPlaced, tx: Connection) -> None:
            if order.number not in bad:
                tx.execute(insert(effects).values(what=str(order.number)))
            elif harm == "passes over a lost connection":
                tx.invalidate()
            else:
                with suppress(IntegrityError):
                    tx.execute(insert(effects).values(number=TWICE, what="twice"))
    else:

        @box.on(OrderPlaced, name="handle", retry=ONCE)
        async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
            if order.number not in bad:
                await tx.execute(insert(effects).values(what=str(order.number)))
            elif harm == "passes over a lost connection":
                await tx.invalidate()
            else:
                with suppress(IntegrityError):
                    await tx.execute(insert(effects).values(number=TWICE, what="twice"))

    async with box.running(relay=False, consumers=False):
        await create_tables(box)
        async with box.transaction() as tx:
            await tx.execute(insert(effects).values(number=TWICE, what="before"))
        await arrive(box)
        came, letters = await noted(box), await box.dead_letters.list()

    good = [str(number) for number in range(COUNT) if number not in bad]
    assert sorted(came) == sorted([*good, "before"])
    assert {int(letter.message.id[1:]) for letter in letters} <= bad


@pytest.mark.parametrize("writes", [True, False], ids=["in a transaction", "outside of one"])
async def test_one_that_conflicts_each_time_is_dead_in_the_end_and_its_neighbours_have_their_effect(
    store_url: str, *, writes: bool
) -> None:
    box, _ = make_box(store_url, broker="memory://")
    others: list[int] = []
    if writes:

        @box.on(OrderPlaced, name="handle", retry=ONCE)
        async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
            await tx.execute(insert(effects).values(what=str(order.number)))
            if order.number == 3:
                raise ConflictError("somebody else was quicker")
            others.append(order.number)
    else:

        @box.on(OrderPlaced, name="handle", retry=ONCE)
        async def call(order: OrderPlaced) -> None:
            if order.number == 3:
                raise ConflictError("somebody else was quicker")
            others.append(order.number)

    async with box.running(relay=False, consumers=False):
        await create_tables(box)
        await arrive(box)
        came, (letter,) = await noted(box), await box.dead_letters.list()

    good = {number for number in range(COUNT) if number != 3}
    assert set(others) == good
    assert set(map(int, came)) == (good if writes else set())
    assert (letter.message.id, letter.attempts, letter.error_type) == ("m3", 1, "ConflictError")
