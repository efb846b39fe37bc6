"""Sets the stage in the store, and looks at what is left on it while the play goes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox
from pillarbox.demo import ledger, wire_tap
from pillarbox.demo.instrumented import BOX_NAME
from pillarbox.demo.messages import OrderPlaced
from pillarbox.demo.services.defaults import metadata
from pillarbox.demo.services.inventory import stock
from pillarbox.demo.services.orders import orders
from pillarbox.errors import ConfigurationError
from pillarbox.relational import tables
from pillarbox.relational.operator_tables import dead_letter_groups
from pillarbox.relational.saga_tables import SAGA_TABLES, saga_instances
from pillarbox.transaction import Execute, Program

DELIVERED, DELIVERED_LIMITED = 1_000_000, 8
"""How many pieces of each article the warehouse got; of what is called LIMITED there is not enough for everyone."""
OWNED = (
    tables.queue,
    tables.subscriptions,
    tables.consumers,
    tables.inbox,
    tables.attempts,
    tables.claims,
    tables.holds,
    tables.held,
    tables.dead_letters,
    dead_letter_groups,
    *SAGA_TABLES,
)
OUTBOXES = (tables.outbox, tables.outbox_scheduled, tables.outbox_held, tables.outbox_holds)

_count = {
    "outbox": select(func.count()).select_from(tables.outbox),
    "scheduled": select(func.count()).select_from(tables.outbox_scheduled),
    "queued": select(func.count()).select_from(tables.queue),
    "waiting": select(func.count()).select_from(tables.holds).where(tables.holds.c.state == "waiting"),
    "sagas": select(func.count()).select_from(saga_instances).where(saga_instances.c.due_at.is_not(None)),
    "settled": select(func.count()).select_from(orders).where(orders.c.status.in_(["shipped", "cancelled"])),
    "effects": select(func.count()).select_from(ledger.effects),
}
LOOK = select(*(count.scalar_subquery().label(name) for name, count in _count.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What the store shows at one instant.

    Attributes:
        pending: messages and sagas that somebody is going to do something about.
        settled: orders that have come to an end.
        effects: handlings so far.
    """

    pending: int
    settled: int
    effects: int


def look() -> Program[Scene]:
    """Count, in one statement."""
    outbox, scheduled, queued, waiting, sagas, settled, effects = (yield Execute(LOOK))[0]
    return Scene(pending=outbox + scheduled + queued + waiting + sagas, settled=settled, effects=effects)


async def set_stage(box: Pillarbox, placed: Iterable[OrderPlaced]) -> None:
    """Clear what an earlier demo has left, make the demo's tables anew and fill the shelves.

    Raises:
        ConfigurationError: the database serves other consumers; nothing was changed.
    """
    async with box.transaction() as tx:
        await _refuse_strangers(tx)
        await _clear(tx)
        await tx.run_sync(metadata.drop_all)
        await tx.run_sync(metadata.create_all)
        shelves = [_shelf(sku) for sku in sorted({order.sku for order in placed})]
        await tx.execute(insert(stock), shelves)


async def _refuse_strangers(tx: AsyncConnection) -> None:
    known = (await tx.execute(select(tables.consumers.c.consumer))).scalars().all()
    strangers = sorted(name for name in known if not name.startswith(f"{BOX_NAME}/"))
    senders = (await tx.execute(select(tables.outbox.c.headers).limit(1_000))).scalars().all()
    if strangers or any(f'"source":"{BOX_NAME}"' not in headers for headers in senders):
        whose = f" (consumers: {', '.join(strangers[:5])})" if strangers else ""
        raise ConfigurationError(f"this store is in use{whose}; give the demo a database of its own")


async def _clear(tx: AsyncConnection) -> None:
    for table in (*OWNED, *OUTBOXES):
        await tx.execute(delete(table))


def _shelf(sku: str) -> dict[str, object]:
    delivered = DELIVERED_LIMITED if sku.startswith("LIMITED") else DELIVERED
    return {"sku": sku, "delivered": delivered, "on_hand": delivered}


async def clear_tap(box: Pillarbox) -> None:
    """Let nobody fill the wire tap's queue any more."""
    async with box.transaction() as tx:
        await tx.execute(delete(tables.subscriptions).where(tables.subscriptions.c.consumer == wire_tap.NAME))
