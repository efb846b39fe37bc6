"""Consumers that go by numbers: each message once and in order, whatever the channel does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import effort
from tests.integration.boxes import create_tables, publish
from tests.integration.conftest import MARIADB, SERVERS
from tests.integration.numbered import MeterRead, box_of_readings, deliver, reading, until_noted

if TYPE_CHECKING:
    from random import Random

DURABLE = ["sqlite", SERVERS[1], MARIADB]


async def test_published_messages_are_numbered_by_key_and_handled_in_order(store_url: str) -> None:
    box, _ = box_of_readings(store_url)
    async with box.running():
        await create_tables(box)
        await publish(box, *(MeterRead(meter, value) for value in range(1, 4) for meter in ("m-1", "m-2")))

        found = await until_noted(box, 6)

    assert sorted(found) == [f"m-{meter}/{value}" for meter in (1, 2) for value in (1, 2, 3)]
    assert [one for one in found if one.startswith("m-1")] == ["m-1/1", "m-1/2", "m-1/3"]


@pytest.mark.parametrize("store_url", DURABLE, indirect=True)
async def test_shuffled_and_repeated_messages_are_handled_once_and_in_order_over_restarts(
    store_url: str, rng: Random
) -> None:
    """Shuffled within fifty, one in ten twice, the process replaced after every hundred."""
    count = effort.of(1000, 300)
    numbers = sorted(range(1, count + 1), key=lambda number: number + rng.uniform(0, 50))
    for number in rng.sample(range(1, count + 1), count // 10):
        numbers.insert(rng.randrange(len(numbers)), number)
    box, _ = box_of_readings(store_url)
    async with box:
        await create_tables(box)
        await box.broker.declare([])

    for start in range(0, len(numbers), 100):
        box, _ = box_of_readings(store_url)
        async with box.running():
            await deliver(box, [reading(number) for number in numbers[start : start + 100]])
            seen = set(numbers[: start + 100])
            handled = next(number for number in range(1, count + 2) if number not in seen) - 1
            found = await until_noted(box, handled)

    assert found == [f"m-1/{number}" for number in range(1, count + 1)]
