"""An order is placed in a database transaction; two consumers handle it. Needs nothing but Python."""

import asyncio
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, event


@event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    pieces: int


@event("stock.reserved", key="order_id")
@dataclass(frozen=True)
class StockReserved:
    order_id: str


box = Pillarbox("shop", store="memory://")
packed = asyncio.Event()


@box.on(OrderPlaced)
async def reserve_stock(order: OrderPlaced, tx: AsyncConnection) -> StockReserved:
    """Ask for the transaction: what is written and what is returned commit together."""
    await tx.execute(text("UPDATE stock SET pieces = pieces - :n"), {"n": order.pieces})
    return StockReserved(order.order_id)


@box.on(StockReserved)
async def pack(reserved: StockReserved) -> None:
    """Ask for no transaction: this one talks to the outside, at least once."""
    print(f"{reserved.order_id} is packed")
    packed.set()


async def place(order: OrderPlaced, *, change_your_mind: bool = False) -> None:
    """Publish in a transaction; if it rolls back, nobody ever hears of the order."""
    async with box.transaction() as tx:
        await box.publish(order, tx=tx)
        if change_your_mind:
            raise RuntimeError(f"{order.order_id} is rolled back")


async def main() -> None:
    async with box.running():
        async with box.transaction() as tx:
            await tx.execute(text("CREATE TABLE stock (pieces INTEGER)"))
            await tx.execute(text("INSERT INTO stock VALUES (10)"))
        try:
            await place(OrderPlaced("o-1", 9), change_your_mind=True)
        except RuntimeError as error:
            print(error)
        await place(OrderPlaced("o-2", 3))
        await packed.wait()
        async with box.transaction() as tx:
            print(f"{await tx.scalar(text('SELECT pieces FROM stock'))} pieces are left")


asyncio.run(main())
