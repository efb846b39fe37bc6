"""How each order has ended, by the books of all services: fulfilled, or undone to the last cent and piece."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.demo.instrumented import BOX_NAME
from pillarbox.demo.services.fulfilment import SAYS, fulfilment
from pillarbox.demo.services.inventory import reservations
from pillarbox.demo.services.orders import orders
from pillarbox.demo.services.payment import payments
from pillarbox.demo.services.shipping import shipments
from pillarbox.message import message_type_of
from pillarbox.relational.saga_tables import saga_instances
from pillarbox.saga.journal import decode_journal


class Ending(StrEnum):
    """How the saga of an order has ended; ``unfinished`` is what adds up to neither."""

    COMPLETED = "completed"
    COMPENSATED = "compensated"
    UNFINISHED = "unfinished"


_of_demo = saga_instances.c.saga == f"{BOX_NAME}/{fulfilment.name}"


async def endings(tx: AsyncConnection) -> Mapping[Ending, int]:
    """Count the orders by how they ended; where sagas were kept, each must say the same of itself."""
    amounts: dict[str, list[int]] = {}
    for order_id, cents in await tx.execute(select(payments.c.order_id, payments.c.amount_cents)):
        amounts.setdefault(order_id, []).append(cents)
    reserved = Counter((await tx.execute(select(reservations.c.order_id))).scalars())
    sent = Counter((await tx.execute(select(shipments.c.order_id))).scalars())
    sagas = {row[0]: row[1] for row in await tx.execute(select(saga_instances.c.saga_id, saga_instances.c.state))}
    counts = dict.fromkeys(Ending, 0)
    placed = select(orders.c.order_id, orders.c.status, orders.c.total_cents)
    for order_id, status, total_cents in await tx.execute(placed):
        ending = _ending(status, amounts.get(order_id, []), (reserved[order_id], sent[order_id]), total_cents)
        counts[ending if sagas.get(order_id, ending) == ending else Ending.UNFINISHED] += 1
    return counts


def _ending(status: str, cents: Sequence[int], goods: tuple[int, int], total_cents: int) -> Ending:
    if status == "shipped" and list(cents) == [total_cents] and goods == (1, 1):
        return Ending.COMPLETED
    if status == "cancelled" and len(cents) in (0, 2) and sum(cents) == 0 and goods == (0, 0):
        return Ending.COMPENSATED
    return Ending.UNFINISHED


async def published_by_sagas(tx: AsyncConnection) -> list[tuple[str, str]]:
    """Return what the sagas have published, by their own journals: message types and order ids."""
    published: list[tuple[str, str]] = []
    for order_id, journal in await tx.execute(
        select(saga_instances.c.saga_id, saga_instances.c.journal).where(_of_demo)
    ):
        for entry in decode_journal(journal).history:
            kind = SAYS.get((entry.what, entry.step, entry.direction.value))
            if kind is not None:
                published.append((message_type_of(kind).name, order_id))
    return published
