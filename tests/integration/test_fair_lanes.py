"""A key with many messages and a slow handler keeps no other lane from its messages."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from pillarbox.ordering import lane_of
from pillarbox.outbox import SLOTS, bucket_for
from tests import effort
from tests.integration.boxes import OrderPlaced, make_box, publish
from tests.waiting import wait_until

LANES = 4
HOT = "hot"
OTHERS = [
    key
    for key in (f"key-{number}" for number in range(100))
    if lane_of(f"k:{key}", LANES) != lane_of(f"k:{HOT}", LANES)
    and bucket_for("topic:order", key, message_id="") % SLOTS != bucket_for("topic:order", HOT, message_id="") % SLOTS
][:20]


@pytest.mark.parametrize("broker", ["database://", "memory://"])
async def test_other_keys_are_handled_while_a_hot_one_is_slow(broker: str) -> None:
    box, _ = make_box("memory://", broker=broker)
    released, handled = asyncio.Event(), list[tuple[str, int]]()

    @box.on(OrderPlaced, name="watch", idempotency="natural", concurrency=LANES)
    async def watch(order: OrderPlaced) -> None:
        if order.order_id == HOT:
            await released.wait()
        handled.append((order.order_id, order.number))

    async with box:
        hot = [OrderPlaced(HOT, number) for number in range(effort.of(10_000, 1_500))]
        await publish(box, *hot, *(OrderPlaced(key, number) for number in range(2) for key in OTHERS))
        async with box.running():
            await wait_until(lambda: len(handled) == 2 * len(OTHERS), timedelta(seconds=60))
            assert sorted(handled) == sorted((key, number) for number in range(2) for key in OTHERS)
            assert box.in_hand <= 1_000, "what is slow is not all taken in hand"
            released.set()
            await wait_until(lambda: len(handled) == 2 * len(OTHERS) + len(hot), timedelta(seconds=120))

    assert [number for key, number in handled if key == HOT] == list(range(len(hot)))
