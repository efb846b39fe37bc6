"""A shop that notes each order once, whose handlers take their time."""

import asyncio
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Settings
from tests.integration.cli_programs.orders import OrderNoted, OrderPlaced

NOTE = text("INSERT INTO noted VALUES (:consumer, :order_id)")

box = Pillarbox("shop", settings=Settings(drain_within=timedelta(seconds=15)))


async def note(tx: AsyncConnection, consumer: str, order_id: str) -> None:
    await tx.execute(NOTE, {"consumer": consumer, "order_id": order_id})
    await asyncio.sleep(0.002)


@box.on(OrderPlaced, name="note")
async def note_order(order: OrderPlaced, tx: AsyncConnection) -> OrderNoted:
    await note(tx, "note", order.order_id)
    return OrderNoted(order.order_id)


@box.on(OrderNoted, name="follow")
async def follow(noted: OrderNoted, tx: AsyncConnection) -> None:
    await note(tx, "follow", noted.order_id)
