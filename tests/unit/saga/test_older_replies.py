"""A reply that one release has put into a journal is made current by the next one, which looks at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import update

from pillarbox import Pillarbox, Saga, command, event
from pillarbox.relational.saga_tables import saga_instances
from pillarbox.saga.journal import ActState, Arrived, Direction, Progress, decode_journal, encode_journal
from tests.unit.saga.standing import stands


@dataclass
class Order:
    order_id: str
    grams: int = 0


@command("older.ship", queue="older", key="order_id")
@dataclass(frozen=True)
class Ship:
    order_id: str


@event("older.shipped", key="order_id", version=2)
@dataclass(frozen=True)
class Shipped:
    order_id: str
    grams: int


def in_grams(body: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had kilograms."""
    return {"order_id": body["order_id"], "grams": 1000 * body["kilograms"]}


@pytest.mark.parametrize(
    ("version", "body"), [(1, '{"order_id":"o-1","kilograms":2}'), (2, '{"order_id":"o-1","grams":2000}')]
)
async def test_a_reply_that_an_older_release_has_noted_is_read_as_the_newest(version: int, body: str) -> None:
    box, fulfil = Pillarbox("shop", store="memory://"), Saga("fulfil", state=Order)

    @fulfil.request(replies=(Shipped,))
    def ship(state: Order) -> Ship:
        return Ship(state.order_id)

    @ship.on(Shipped)
    def shipped(state: Order, reply: Shipped) -> None:
        state.grams = reply.grams

    box.register(Shipped, upcasters={1: in_grams})
    box.include(fulfil)
    async with box:
        async with box.transaction() as tx:
            await box.sagas.start(fulfil, Order("o-1"), saga_id="o-1", tx=tx)
            journal = decode_journal((await tx.execute(saga_instances.select())).one().journal)
            reply = Arrived(
                step="ship",
                direction=Direction.DO,
                attempt=1,
                type="older.shipped",
                version=version,
                content_type="application/json",
                body=body,
            )
            sent = Progress(state=ActState.SENT, attempts=1)
            noted = replace(journal, do={"ship": sent}, arrived=(reply,))
            await tx.execute(update(saga_instances).values(journal=encode_journal(noted).decode()))
        async with box.running():
            ended = await stands(box, "fulfil", "o-1", "completed")

    assert '"grams":2000' in ended.state
