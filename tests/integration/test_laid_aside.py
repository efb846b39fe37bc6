"""What an instance lays aside, to give it back, and goes on with after all: on the brokers whose partitions are leased."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pillarbox.brokers.nats import nats_broker
from pillarbox.brokers.partitions import PARTITIONS, PartitionLeases, partition_of
from pillarbox.brokers.rabbitmq import rabbitmq_broker
from pillarbox.brokers.redis import redis_broker
from pillarbox.channel import Outcome
from pillarbox.testing.contracts.broker_harness import A_WHILE, letter, listening, new_subscription, new_topic, receive
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.channel import Broker
    from pillarbox.message import Message
    from pillarbox.testing.contracts.broker_harness import BrokerHarness

BROKERS = {"redis": redis_broker, "nats": nats_broker, "rabbitmq": rabbitmq_broker}
WITHIN = timedelta(seconds=20)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.server) for name in BROKERS])
async def broker(request: pytest.FixtureRequest, leases: PartitionLeases) -> AsyncIterator[Broker]:
    """An open broker on the server of the run."""
    broker = BROKERS[request.param](request.getfixturevalue(f"{request.param}_server").url, leases=leases)
    await broker.open()
    yield broker
    await broker.close()


def letters(topic: str, partition: int, count: int) -> list[Message]:
    """Return messages of one key that lie in ``partition``."""
    keys = (f"k{number}" for number in range(1000))
    key = next(key for key in keys if partition_of(letter("m", topic, key=key)) == partition)
    return [letter(f"m{number}", topic, key=key) for number in range(count)]


async def test_what_was_laid_aside_for_an_instance_that_is_gone_again_comes_before_what_follows(
    broker: Broker, harness: BrokerHarness
) -> None:
    """What is out of a partition keeps it here; what was read and not handed out may not be left behind by that."""
    topic = new_topic()
    subscription = new_subscription(topic)
    kept, given = letters(topic, PARTITIONS - 1, 5), letters(topic, PARTITIONS - 2, 2)
    async with listening(harness, subscription) as first:
        await first.receive(1, within=A_WHILE)
        for message in kept[:4]:
            await broker.sender().send([message])
        out = await receive(first, 1)
        assert [one.message for one in out] == kept[:1]
        async with listening(harness, subscription) as second:
            await broker.sender().send(given[:1])

            async def has_come_to_the_second() -> bool:
                await first.receive(0, within=timedelta(0))
                came = await second.receive(1, within=A_WHILE)
                await second.settle(came, Outcome.ACCEPTED)
                return [one.message for one in came] == given[:1]

            await wait_until(has_come_to_the_second, WITHIN)
        await broker.sender().send(given[1:])

        async def goes_on_with_all() -> bool:
            came = [one.message for one in await first.receive(1, within=A_WHILE)]
            rest.extend(came)
            return bool(came)

        rest: list[Message] = []
        await broker.sender().send(kept[4:])
        while len(rest) < 5:
            await wait_until(goes_on_with_all, WITHIN)

        assert [one for one in rest if one in kept] == kept[1:]
        await first.settle(out, Outcome.ACCEPTED)
