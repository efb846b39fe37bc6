"""A process with a consumer that fails for one message of a key: ``python -m tests.integration.full_key_worker``.

Its arguments are the store, the broker, the service, the topic, and whether it is ``broken`` or ``mended``.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, RelaySettings, Retry, Settings
from pillarbox.errors import PermanentError
from tests.integration.boxes import OrderPlaced, note
from tests.integration.shop import orders_of

CAP, POISON = 5, "poison"
SETTINGS = Settings(migrate_on_open=True, max_held=CAP, relay=RelaySettings(lease=timedelta(seconds=2)))


def full_key_box(store: str, broker: str, service: str, orders: type[OrderPlaced], *, is_mended: bool) -> Pillarbox:
    """Return a box whose one consumer notes orders, but not the first of the poisoned key unless it is mended."""
    box = Pillarbox(service, store=store, broker=broker, settings=SETTINGS)

    @box.on(orders, name="note", retry=Retry(attempts=1))
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        if (order.order_id, order.number) == (POISON, 0) and not is_mended:
            raise PermanentError("it is broken")
        await note(tx, f"{order.order_id} {order.number}")

    return box


if __name__ == "__main__":
    store, broker, service, topic, state = sys.argv[1:]
    box = full_key_box(store, broker, service, orders_of(topic), is_mended=state == "mended")
    asyncio.run(box.run(relay=False))
