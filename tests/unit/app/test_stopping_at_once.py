"""A box that has nothing in hand ends at once: nothing in it waits for its clock, which stands still here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, Settings, event
from pillarbox.testing import VirtualClock
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

SOON_S = 5


@event("ending.placed", key="order_id")
@dataclass(frozen=True)
class Placed:
    order_id: str


async def test_a_box_with_nothing_in_hand_ends_without_a_tick_of_its_clock(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'shop.db'}"
    box = Pillarbox("shop", store=store, broker="database://", settings=Settings(clock=VirtualClock()))

    heard = asyncio.Event()

    @box.on(Placed, name="hear")
    async def hear(one: Placed, tx: AsyncConnection) -> None:
        heard.set()

    async with asyncio.timeout(SOON_S), box.running():
        async with box.transaction() as tx:
            await box.publish(Placed("o-1"), tx=tx)
        await heard.wait()
        await wait_until(lambda: box.in_hand == 0)
