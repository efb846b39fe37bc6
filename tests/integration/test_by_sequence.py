"""Consumers that go by numbers: each message once and in order, whatever the channel does."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pillarbox import BySequence, GapPolicy
from pillarbox.observe import GapFound, MessageHandled
from tests import effort
from tests.integration.boxes import create_tables, make_box, publish
from tests.integration.conftest import MARIADB, SERVERS
from tests.integration.numbered import PATIENT, MeterRead, box_of_readings, deliver, reading, until_noted

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


@pytest.mark.parametrize("store_url", DURABLE, indirect=True)
async def test_two_processes_keep_the_order_of_every_key_between_them(store_url: str, rng: Random) -> None:
    count, keys = effort.of(200, 60), [f"m-{number}" for number in range(3)]
    messages = [reading(number, key=key) for key in keys for number in range(1, count + 1)]
    messages.sort(key=lambda one: int(one.headers["sequence"]) + rng.uniform(0, 20))
    messages += rng.sample(messages, len(messages) // 10)
    first, _ = box_of_readings(store_url)
    second, _ = box_of_readings(store_url)
    async with first.running():
        await create_tables(first)
        async with second.running():
            await deliver(first, messages)
            found = await until_noted(first, count * len(keys))

    for key in keys:
        assert [one for one in found if one.startswith(f"{key}/")] == [f"{key}/{at}" for at in range(1, count + 1)]


@pytest.mark.parametrize("store_url", ["memory", *DURABLE[1:]], indirect=True)
async def test_handlers_without_a_transaction_keep_the_order_too(store_url: str, rng: Random) -> None:
    called: list[int] = []
    box, happenings = make_box(store_url)

    @box.on(MeterRead, name="post", ordering=PATIENT, idempotency="inbox", outside=True)
    async def post(read: MeterRead) -> None:
        called.append(read.value)

    messages = [reading(number) for number in range(1, 41)]
    rng.shuffle(messages)
    async with box.running():
        await deliver(box, [*messages, *messages[:5]])
        await happenings.until(MessageHandled, 40)

    assert called == list(range(1, 41))


async def test_what_there_is_no_room_for_comes_again(rng: Random) -> None:
    """The buffer holds five, and the first number comes last of all."""
    rule = BySequence(gap=GapPolicy(wait=timedelta(minutes=5), max_buffered=5), start="first")
    box, happenings = box_of_readings("memory://", rule)
    async with box.running():
        await create_tables(box)
        await deliver(box, [reading(number) for number in range(2, 31)])
        await happenings.until(GapFound)
        assert (await box.store.run(box.store.gaps.state())).buffered == 5
        await deliver(box, [reading(1)])

        assert await until_noted(box, 30) == [f"m-1/{number}" for number in range(1, 31)]
