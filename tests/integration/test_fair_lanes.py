"""A key with many messages and a slow handler keeps no other lane from its messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from pillarbox.brokers.partitions import PARTITIONS
from pillarbox.ordering import lane_of
from pillarbox.outbox import SLOTS, bucket_for
from tests import effort
from tests.integration.boxes import OrderPlaced, make_box, publish
from tests.integration.murmur2 import murmur2
from tests.integration.shop import orders_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers import KafkaServer, Server

LANES = 4
HOT = "hot"
TOPIC = "fair-order"
HOT_COUNT = effort.of(10_000, 1_500)
"""More than any receiver reads ahead."""
WITHIN = timedelta(seconds=120)


@pytest.mark.parametrize("broker", ["database://", "memory://"])
async def test_other_keys_are_handled_while_a_hot_one_is_slow(broker: str) -> None:
    await handles_others_while_one_is_slow(broker, slot_of)


@pytest.mark.parametrize("name", ["redis", "nats", "rabbitmq"])
async def test_other_partitions_are_handled_while_a_hot_key_is_slow(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(f"{name}_server")
    await handles_others_while_one_is_slow(server.url, lambda key: slot_of(key) % PARTITIONS)


async def test_other_partitions_of_kafka_are_handled_while_a_hot_key_is_slow(kafka_server: KafkaServer) -> None:
    await handles_others_while_one_is_slow(f"{kafka_server.url}?partitions=4", lambda key: murmur2(key.encode()) % 4)


def slot_of(key: str) -> int:
    """Return the slot of the database's queue in which the messages of a key of this topic lie."""
    return bucket_for(f"topic:{TOPIC}", key, message_id="") % SLOTS


async def handles_others_while_one_is_slow(broker: str, place_of: Callable[[str], int]) -> None:
    """Have other keys, of other lanes and other places, handled while nothing of the hot one is finished."""
    keys = (f"key-{number}" for number in range(200))
    others = [
        key
        for key in keys
        if lane_of(f"k:{key}", LANES) != lane_of(f"k:{HOT}", LANES) and place_of(key) != place_of(HOT)
    ][:20]
    box, _ = make_box("memory://", broker=broker, service=f"fair-{uuid4().hex[:8]}")
    orders = orders_of(TOPIC)
    released, handled, started = asyncio.Event(), list[tuple[str, int]](), asyncio.Event()

    @box.on(orders, name="watch", idempotency="natural", concurrency=LANES)
    async def watch(order: OrderPlaced) -> None:
        if order.order_id == HOT:
            started.set()
            await released.wait()
        handled.append((order.order_id, order.number))

    wanted = [(key, number) for number in range(2) for key in others]
    async with box.running():
        await publish(box, *(orders(HOT, number) for number in range(HOT_COUNT)))
        await wait_until(started.is_set, WITHIN)
        await publish(box, *(orders(key, number) for key, number in wanted))
        await wait_until(lambda: len(handled) == len(wanted), WITHIN, what="what the others have")
        assert sorted(handled) == sorted(wanted)
        assert box.in_hand <= 1_000, "what is slow is not all taken in hand"
        released.set()
        await wait_until(lambda: len(handled) == len(wanted) + HOT_COUNT, WITHIN)

    assert [number for key, number in handled if key == HOT] == list(range(HOT_COUNT))
