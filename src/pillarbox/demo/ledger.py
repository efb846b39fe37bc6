"""The demo's own books: what each handling did, written in the handler's transaction and with no uniqueness at all.

An effect that happened twice stands here twice, and a message that was committed stands here before any broker has it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Column, Integer, String, Table
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context
from pillarbox.demo.services.defaults import metadata
from pillarbox.message import message_type_of

effects = Table(
    "demo_effects",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("consumer", String(200), nullable=False),
    Column("message_id", String(200), nullable=False),
    Column("message_type", String(200), nullable=False),
    Column("order_id", String(64), nullable=False),
)
committed = Table(
    "demo_committed",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("message_type", String(200), nullable=False),
    Column("order_id", String(64), nullable=False),
)


async def note_effect(tx: AsyncConnection, *, consumer: str, order_id: str, ctx: Context) -> None:
    """Note that ``consumer`` has applied the message of ``ctx``."""
    row = {"consumer": consumer, "message_id": ctx.message_id, "message_type": ctx.type, "order_id": order_id}
    await tx.execute(effects.insert(), row)


async def note_published(tx: AsyncConnection, messages: Sequence[object], *, order_id: str) -> None:
    """Note which messages the transaction has published."""
    rows = [{"message_type": message_type_of(type(one)).name, "order_id": order_id} for one in messages]
    if rows:
        await tx.execute(committed.insert(), rows)
