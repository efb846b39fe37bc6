"""A program whose handler does not end by itself."""

import asyncio

from pillarbox import Pillarbox
from tests.integration.cli_programs.orders import OrderPlaced

box = Pillarbox("shop")


@box.on(OrderPlaced, name="wait")
async def wait(order: OrderPlaced) -> None:
    print("handler has begun", flush=True)
    await asyncio.Event().wait()
