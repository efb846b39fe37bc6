"""A large replay beside live traffic: it keeps the rate that was asked for, and the others hardly notice."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import DeadLetterFilter
from pillarbox.deadletter import Burial
from pillarbox.holding import Hold, HoldState
from tests import effort
from tests.fault.story import stay_open
from tests.integration.boxes import OrderPlaced, create_tables, make_box, note, publish
from tests.integration.shop import p99_ms
from tests.messages import message
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox

pytestmark = pytest.mark.server

LETTERS, RATE, CONSUMER = effort.of(10_000, 180), effort.of(200, 60), "shop/handle"
CALM, EVERY_MS = effort.of(1_000, 100), 20
WITHIN = timedelta(seconds=LETTERS / RATE * 2 + 20)
OFF, GRACE_MS = (0.1, 50) if effort.THOROUGH else (0.5, 500)
"""How far from the rate it may be, and how much later than twice as late the others.

In a few seconds beside other tests much can happen.
"""


def body_of(number: int) -> bytes:
    return msgspec.json.encode(OrderPlaced(f"dead-{number}", number))


async def bury(box: Pillarbox) -> None:
    """Bury letters, each of its own key, which it holds."""
    for start in range(0, LETTERS, 200):
        burials = [
            Burial(
                hold_key=f"k:dead-{number}",
                message=message(f"m{number}", key=f"dead-{number}", body=body_of(number)),
                reason="exhausted",
                attempts=5,
                history=(),
                stack="",
                fingerprint="cause",
            )
            for number in range(start, min(start + 200, LETTERS))
        ]
        blocked = [Hold(hold_key=one.hold_key, state=HoldState.BLOCKED) for one in burials]
        async with box.store.begin() as tx:
            await tx.run(box.store.dead_letters.bury(CONSUMER, burials))
            await tx.run(box.store.holding.hold(CONSUMER, blocked))


async def test_a_replay_keeps_its_rate_and_live_messages_are_hardly_slower(postgresql_url: str) -> None:
    box, _ = make_box(postgresql_url)
    committed, handled = dict[int, float](), dict[int, float]()
    replayed: list[float] = []

    @box.on(OrderPlaced, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, f"{order.order_id} {order.number}")
        if order.order_id.startswith("dead"):
            replayed.append(time.monotonic())
        else:
            handled[order.number] = time.monotonic()

    async def write(until: asyncio.Event) -> None:
        while not until.is_set():
            number = len(committed)
            await publish(box, OrderPlaced(f"live-{number % 50}", number))
            committed[number] = time.monotonic()
            await stay_open(EVERY_MS)

    def p99(first: int, last: int) -> float:
        return p99_ms([handled[number] - committed[number] for number in range(first, last)])

    async with box.running():
        await create_tables(box)
        await bury(box)
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(write(enough))
            await wait_until(lambda: len(committed) >= 50, what="a warm start")
            first = len(committed)
            await wait_until(lambda: len(committed) >= first + CALM, WITHIN, what="a calm time")
            began = len(committed)
            await box.dead_letters.replay_all(DeadLetterFilter(), by="ann", rate=RATE)
            await wait_until(lambda: len(replayed) >= LETTERS, WITHIN, what="all replays")
            ended = len(committed)
            enough.set()
        await wait_until(lambda: len(handled) >= len(committed), WITHIN, what="what was published")

    rate = (LETTERS - 1) / (replayed[-1] - replayed[0])
    usual, meanwhile = p99(first, began), p99(began, ended)
    print(f"{rate:.0f} replays a second; p99 of the others {usual:.0f} ms before, {meanwhile:.0f} ms meanwhile")
    assert RATE * (1 - OFF) <= rate <= RATE * (1 + OFF)
    assert meanwhile <= 2 * usual + GRACE_MS
