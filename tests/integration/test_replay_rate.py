"""A large replay beside live traffic: it keeps the rate that was asked for, and the others hardly notice.

Calm times and replays take turns, and the medians of both are compared: what else the machine does meets either alike.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from statistics import median
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
    from collections.abc import Callable

    from pillarbox import Pillarbox

pytestmark = pytest.mark.server

TURNS, CONSUMER = effort.of(10, 3), "shop/handle"
LETTERS, RATE = effort.of(1_000, 90), effort.of(200, 60)
"""Letters of a turn, and how many of them a second."""
EVERY_MS = 20
CALM_S = LETTERS / RATE
WITHIN = timedelta(seconds=60)
OFF, GRACE_MS = (0.1, 25) if effort.THOROUGH else (0.5, 250)
"""How far from the rate it may be, and how much later than twice as late the others.

In a second beside other tests much can happen.
"""


def body_of(number: int) -> bytes:
    return msgspec.json.encode(OrderPlaced(f"dead-{number}", number))


async def bury(box: Pillarbox) -> None:
    """Bury the letters of all turns, each of its own key, which it holds."""
    for start in range(0, LETTERS * TURNS, 200):
        burials = [
            Burial(
                hold_key=f"k:dead-{number}",
                message=message(f"m{number}", key=f"dead-{number}", body=body_of(number)),
                reason="exhausted",
                attempts=5,
                history=(),
                stack="",
                fingerprint=f"turn-{number // LETTERS}",
            )
            for number in range(start, min(start + 200, LETTERS * TURNS))
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

    def have_been(count: int) -> Callable[[], bool]:
        return lambda: len(replayed) >= count

    async def how_late(name: str, is_over: Callable[[], bool]) -> float:
        """Return the p99 of the live messages from now on until it is over, in milliseconds."""
        first = len(committed)
        await wait_until(is_over, WITHIN, what=name)
        last = len(committed)
        await wait_until(lambda: all(number in handled for number in range(first, last)), WITHIN, what=f"{name} to end")
        return p99_ms([handled[number] - committed[number] for number in range(first, last)])

    usual, meanwhile, rates = list[float](), list[float](), list[float]()
    async with box.running():
        await create_tables(box)
        await bury(box)
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(write(enough))
            await wait_until(lambda: len(committed) >= 50, what="a warm start")
            for turn in range(TURNS):
                before = len(replayed)
                usual.append(await how_late("a calm time", has_come(time.monotonic() + CALM_S)))
                await box.dead_letters.replay_all(DeadLetterFilter(group=f"turn-{turn}"), by="ann", rate=RATE)
                await wait_until(have_been(before + 1), WITHIN, what="the first replay")
                meanwhile.append(await how_late("replays", have_been(before + LETTERS)))
                rates.append((LETTERS - 1) / (replayed[-1] - replayed[before]))
            enough.set()

    print(f"{median(rates):.0f} replays a second; p99 of the others by turns, in ms: {told(usual)} / {told(meanwhile)}")
    assert RATE * (1 - OFF) <= median(rates) <= RATE * (1 + OFF)
    assert median(meanwhile) <= 2 * median(usual) + GRACE_MS


def has_come(instant: float) -> Callable[[], bool]:
    return lambda: time.monotonic() >= instant


def told(times_ms: list[float]) -> str:
    return " ".join(f"{one:.0f}" for one in times_ms)
