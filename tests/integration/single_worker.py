"""A process of a consumer that is alone; run as ``python -m tests.integration.single_worker URL``."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, RelaySettings, Settings, SingleConsumer
from tests.fault.story import stay_open
from tests.integration.boxes import OrderPlaced, note

SETTINGS = Settings(migrate_on_open=True, relay=RelaySettings(lease=timedelta(seconds=2)))


def single_box(url: str) -> Pillarbox:
    """Return a box whose one consumer handles slowly, one message at a time over all processes."""
    box = Pillarbox("shop", store=url, settings=SETTINGS)

    @box.on(OrderPlaced, name="alone", ordering=SingleConsumer())
    async def alone(order: OrderPlaced, tx: AsyncConnection) -> None:
        await stay_open(5)
        await note(tx, order.order_id)

    return box


if __name__ == "__main__":
    asyncio.run(single_box(sys.argv[1]).run(relay=False))
