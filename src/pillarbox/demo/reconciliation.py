"""Adds up the books of the five services and the library's tables: is everything accounted for, once?

Everything here is read from the database and the mail gateway, nothing from what the processes remember.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.consumer import Consumer
from pillarbox.demo.endings import Ending, endings, published_by_sagas
from pillarbox.demo.ledger import committed, effects
from pillarbox.demo.services.inventory import reservations, stock
from pillarbox.demo.services.orders import orders
from pillarbox.demo.services.payment import payments
from pillarbox.demo.services.shipping import shipments
from pillarbox.relational import tables


class Handling(NamedTuple):
    """One message of one order, as one consumer has to handle it."""

    consumer: str
    message_type: str
    order_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """Where the money is, in cents.

    Attributes:
        shipped: what the shipped orders cost.
        unsettled: charged for orders that stand still behind a dead letter, for an operator to decide.
    """

    charged: int
    refunded: int
    shipped: int
    unsettled: int

    @property
    def adds_up(self) -> bool:
        """Whether every cent that was kept is for goods that were sent, or waits visibly."""
        return self.charged - self.refunded == self.shipped + self.unsettled


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The demo's state, added up.

    Attributes:
        committed: orders whose transaction committed.
        messages: messages that were published in transactions that committed.
        published: those of them that have left the outbox.
        handled: effects of handlers, mails included.
        dead: what lies in the dead letters, as ``consumer/order``.
        held: messages that wait behind a dead letter of their key.
        lost: handlings that should have been and of which nothing is to be found.
        applied_twice: handlings that had more effects than messages.
        ghosts: effects for orders that were never committed.
        statuses: orders by status.
        stock_consistent: whether shelves and reservations add up to what was delivered.
        garbled: names of customers that did not arrive as they were written.
        endings: orders by how they ended, as sagas do.
    """

    committed: int
    messages: int
    published: int
    handled: int
    dead: frozenset[str]
    held: int
    lost: int
    applied_twice: int
    ghosts: int
    statuses: Mapping[str, int]
    money: Money
    stock_consistent: bool
    garbled: int
    endings: Mapping[Ending, int]


async def reconcile(
    tx: AsyncConnection, consumers: Sequence[Consumer], *, mails: Sequence[Mapping[str, str]], notifier: str
) -> Books:
    """Read everything in one transaction and add it up.

    Args:
        tx: the transaction to read in.
        consumers: those of the demo that keep books.
        mails: what the mail gateway has sent.
        notifier: the consumer that has sent them.
    """
    published = [(row[0], row[1]) for row in await tx.execute(select(committed.c.message_type, committed.c.order_id))]
    published += await published_by_sagas(tx)
    expected = _expected(published, consumers)
    done = await _done(tx)
    outcomes = {one.order_id: one for one in expected if one.consumer == notifier}
    done.update(outcomes.get(mail["order_id"], Handling(notifier, "?", mail["order_id"])) for mail in mails)
    dead = await _dead(tx)
    held = await _held(tx)
    waiting = Counter(dead.values()) + Counter(held)
    known = set((await tx.execute(select(orders.c.order_id))).scalars())
    statuses = await tx.execute(select(orders.c.status, func.count()).group_by(orders.c.status))
    return Books(
        committed=len(known),
        messages=len(published),
        published=len(published) - await _in_outbox(tx),
        handled=done.total(),
        dead=frozenset(f"{one.consumer}/{one.order_id}" for one in dead.values()),
        held=len(held),
        lost=(expected - done - waiting).total(),
        applied_twice=(done - expected).total(),
        ghosts=sum(count for one, count in (done + waiting).items() if one.order_id not in known),
        statuses={row[0]: int(row[1]) for row in statuses},
        money=await _money(tx, {one.order_id for one in waiting}),
        stock_consistent=await _stock_is_consistent(tx),
        garbled=await _garbled(tx),
        endings=await endings(tx),
    )


def _expected(published: Sequence[tuple[str, str]], consumers: Sequence[Consumer]) -> Counter[Handling]:
    return Counter(
        Handling(consumer.identity, message_type, order_id)
        for message_type, order_id in published
        for consumer in consumers
        if message_type in consumer.message_types
    )


async def _done(tx: AsyncConnection) -> Counter[Handling]:
    rows = await tx.execute(select(effects.c.consumer, effects.c.message_type, effects.c.order_id))
    return Counter(Handling(row[0], row[1], row[2]) for row in rows)


async def _dead(tx: AsyncConnection) -> dict[tuple[str, str], Handling]:
    """Return the dead letters by consumer and message id."""
    letters = tables.dead_letters.c
    rows = await tx.execute(select(letters.consumer, letters.message_id, letters.type, letters.message_key))
    return {(row[0], row[1]): Handling(row[0], row[2], row[3]) for row in rows}


async def _held(tx: AsyncConnection) -> list[Handling]:
    """Return what is held, but for late duplicates of what is dead or done."""
    held, letters = tables.held.c, tables.dead_letters.c
    is_dead = select(letters.position).where(letters.consumer == held.consumer, letters.message_id == held.message_id)
    is_done = select(effects.c.number).where(
        effects.c.consumer == held.consumer, effects.c.message_id == held.message_id
    )
    rows = await tx.execute(
        select(held.consumer, held.type, held.message_key).where(~is_dead.exists(), ~is_done.exists())
    )
    return [Handling(row[0], row[1], row[2]) for row in rows]


async def _in_outbox(tx: AsyncConnection) -> int:
    counts = [
        await tx.scalar(select(func.count()).select_from(table))
        for table in (tables.outbox, tables.outbox_scheduled, tables.outbox_held)
    ]
    return sum(count or 0 for count in counts)


async def _money(tx: AsyncConnection, stuck: set[str]) -> Money:
    amount = payments.c.amount_cents
    charged, refunded = (
        await tx.execute(
            select(
                func.coalesce(func.sum(amount).filter(payments.c.kind == "charge"), 0),
                func.coalesce(func.sum(-amount).filter(payments.c.kind == "refund"), 0),
            )
        )
    ).one()
    shipped = await tx.scalar(
        select(func.coalesce(func.sum(orders.c.total_cents), 0)).join(
            shipments, shipments.c.order_id == orders.c.order_id
        )
    )
    kept = await tx.execute(
        select(payments.c.order_id, func.sum(amount))
        .where(payments.c.order_id.not_in(select(shipments.c.order_id)))
        .group_by(payments.c.order_id)
    )
    return Money(
        charged=int(charged),
        refunded=int(refunded),
        shipped=int(shipped or 0),
        unsettled=sum(int(row[1]) for row in kept if row[0] in stuck),
    )


async def _stock_is_consistent(tx: AsyncConnection) -> bool:
    reserved = (
        select(func.coalesce(func.sum(reservations.c.quantity), 0))
        .where(reservations.c.sku == stock.c.sku)
        .scalar_subquery()
    )
    rows = await tx.execute(select(stock.c.delivered, stock.c.on_hand, reserved))
    return all(delivered == on_hand + taken and on_hand >= 0 for delivered, on_hand, taken in rows)


async def _garbled(tx: AsyncConnection) -> int:
    """Count payments whose card holder, who came by message, is not the customer of the order."""
    count = await tx.scalar(
        select(func.count())
        .select_from(payments)
        .join(orders, orders.c.order_id == payments.c.order_id)
        .where(payments.c.card_holder != orders.c.customer)
    )
    return count or 0
