"""Words to a child that its parent has not said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Saga
from pillarbox.message.return_address import ReturnAddress
from pillarbox.observe import MessageDead
from pillarbox.outbox import PublishOptions
from pillarbox.saga.journal import Direction
from pillarbox.saga.starting import UndoChild
from pillarbox.saga.token import Awaited, signed
from pillarbox.transaction import adopt
from tests.integration.boxes import create_tables, make_box, note
from tests.waiting import wait_until

CHILD = "o-1.fulfil.deliver"
REPLIES = "queue:shop.replies"


@dataclass
class Order:
    order_id: str


async def forge(box: Pillarbox) -> None:
    """Ask for the child to be undone, in the name of its parent and without its secret."""
    token = signed(Awaited("shop/fulfil", "o-1", "deliver", Direction.UNDO, 1), "guessed")
    wish = UndoChild(saga="shop/delivery", saga_id=CHILD, to=REPLIES, key="o-1", token=token, forced=True)
    there = ReturnAddress(to=REPLIES, key=CHILD, types=(), token="")
    outbox = box._parts().outbox
    async with box.transaction() as tx:
        await adopt(tx).run(outbox.append([outbox.prepare(wish, options=PublishOptions(answers=there))]))


async def test_a_child_is_not_undone_by_somebody_who_is_not_its_parent(store_url: str) -> None:
    box, happenings = make_box(store_url)
    fulfil: Saga[Order] = Saga("fulfil", state=Order)
    delivery: Saga[Order] = Saga("delivery", state=Order)

    @delivery.step
    async def pack(state: Order, tx: AsyncConnection) -> None:
        await note(tx, "packed")

    @fulfil.child(delivery)
    def deliver(state: Order) -> Order:
        return state

    box.include(fulfil)
    box.include(delivery)
    async with box:
        await create_tables(box)
        async with box.running():
            async with box.transaction() as tx:
                await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)

            async def is_completed() -> bool:
                return (await box.sagas.get("o-1")).summary.status == "completed"

            await wait_until(is_completed, timedelta(seconds=20))
            await forge(box)
            (dead,) = await happenings.until(MessageDead)
            found = await box.sagas.get(CHILD)

    assert dead.error_type == "DecodeError"
    assert found.summary.status == "completed"
