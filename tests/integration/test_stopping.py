"""A consumer that a dead letter stops: nothing is handled until somebody decides, and nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Retry
from pillarbox.app.controlling import control_of
from pillarbox.observe import ConsumerStopped, MessageHandled
from tests.integration.boxes import Happenings, OrderPlaced, create_tables, make_box, note, noted, publish
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.deadletter import DeadLetter


class Mended:
    """Whether the handler has been mended."""

    def __init__(self) -> None:
        self.done = False


def shop(url: str, mended: Mended, *, outside: bool = False) -> tuple[Pillarbox, Happenings]:
    box, happenings = make_box(url)

    def judge(order: OrderPlaced) -> str:
        if order.order_id == "bad" and order.number == 0 and not mended.done:
            raise ValueError(order.order_id)
        return f"{order.order_id} {order.number}"

    if outside:

        @box.on(OrderPlaced, name="careful", when_dead="stop", retry=Retry(attempts=1), outside=True)
        async def careful_outside(order: OrderPlaced) -> None:
            what = judge(order)
            async with box.transaction() as tx:
                await note(tx, what)

    else:

        @box.on(OrderPlaced, name="careful", when_dead="stop", retry=Retry(attempts=1))
        async def careful(order: OrderPlaced, tx: AsyncConnection) -> None:
            await note(tx, judge(order))

    return box, happenings


async def dead(box: Pillarbox) -> DeadLetter:
    (letter,) = await box.dead_letters.list()
    return letter


@pytest.mark.parametrize("outside", [False, True], ids=["transaction", "outside"])
async def test_a_dead_letter_stops_the_consumer_in_every_process_until_it_is_replayed(
    sqlite_url: str, outside: bool
) -> None:
    mended = Mended()
    box, happenings = shop(sqlite_url, mended, outside=outside)
    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("before"))
        await happenings.until(MessageHandled)
        await publish(box, OrderPlaced("bad"), OrderPlaced("bad", 1))
        (stopped,) = await happenings.until(ConsumerStopped)
        await publish(box, OrderPlaced("other"))
        assert (await box.health()).vitals.stopped == ("shop/careful",)
        assert (await dead(box)).message.id == stopped.message_id

    again, seen = shop(sqlite_url, mended, outside=outside)
    async with again.running():
        (view,) = await control_of(again.store).consumers.list()
        assert view.stopped

        async def queued() -> bool:
            (one,) = await control_of(again.store).consumers.list()
            return one.queued == 2

        await wait_until(queued)
        assert (seen.of(MessageHandled), await noted(again)) == ([], ["before 0"])

        mended.done = True
        await again.dead_letters.replay((await dead(again)).id, by="me")
        await seen.until(MessageHandled, 3)

        handled = await noted(again)
        assert handled[:2] == ["before 0", "bad 0"]
        assert sorted(handled[2:]) == ["bad 1", "other 0"]
        assert (await again.health()).vitals.stopped == ()


async def test_a_discarded_letter_lets_the_consumer_go_on_without_it(sqlite_url: str) -> None:
    box, happenings = shop(sqlite_url, Mended())
    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("bad"), OrderPlaced("bad", 1))
        await happenings.until(ConsumerStopped)

        await box.dead_letters.discard((await dead(box)).id, reason="a test order", by="me")
        await happenings.until(MessageHandled)

        assert await noted(box) == ["bad 1"]
        assert await box.dead_letters.list() == ()


async def test_a_released_consumer_goes_on_and_the_letter_that_stopped_it_stays(sqlite_url: str) -> None:
    mended = Mended()
    box, happenings = shop(sqlite_url, mended)
    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("bad"), OrderPlaced("bad", 1))
        await happenings.until(ConsumerStopped)
        letter = await dead(box)

        await box.held.release(letter.consumer, letter.hold_key, reason="the others are urgent", by="me")
        await happenings.until(MessageHandled)
        assert await noted(box) == ["bad 1"]

        mended.done = True
        await box.dead_letters.replay((await dead(box)).id, by="me")
        await happenings.until(MessageHandled, 2)
        assert await noted(box) == ["bad 1", "bad 0"]
