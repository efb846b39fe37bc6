"""What an instance lays aside, to give it back, and goes on with after all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pillarbox.brokers.nats import nats_broker
from pillarbox.brokers.partitions import PARTITIONS, PartitionLeases, partition_of
from pillarbox.brokers.redis import redis_broker
from pillarbox.channel import OUT_OF_A_PLACE, Broker, Confirmed, Outcome
from pillarbox.testing.contracts.broker_harness import A_WHILE, letter, listening, new_subscription, new_topic, receive
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.channel import Delivery
    from pillarbox.message import Message
    from pillarbox.testing.contracts.broker_harness import BrokerHarness

BROKERS: Mapping[str, Callable[..., Broker]] = {"redis": redis_broker, "nats": nats_broker}
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
    kept, given = letters(topic, PARTITIONS - 1, OUT_OF_A_PLACE + 4), letters(topic, PARTITIONS - 2, 1)
    async with listening(harness, subscription) as first:
        await first.receive(1, within=A_WHILE)
        await send(broker, kept[:-1])
        out: list[Delivery] = []

        async def is_full() -> bool:
            out.extend(await first.receive(len(kept), within=A_WHILE))
            return len(out) == OUT_OF_A_PLACE

        await wait_until(is_full, WITHIN)
        async with listening(harness, subscription) as second:
            await send(broker, given)

            async def has_come_to_the_second() -> bool:
                await first.settle(await first.receive(1, within=A_WHILE), Outcome.RETURNED)
                return bool(await second.receive(1, within=A_WHILE))

            await wait_until(has_come_to_the_second, WITHIN)
        await send(broker, kept[-1:])

        async def has_come_to_the_first() -> bool:
            return bool(await first.receive(1, within=A_WHILE))

        await wait_until(has_come_to_the_first, WITHIN, what="what the second did not settle")
        await first.settle(out, Outcome.ACCEPTED)

        assert [one.message for one in [*out, *await receive(first, 4)]] == kept


async def send(broker: Broker, messages: Sequence[Message]) -> None:
    """Send messages of one key, each after the one before."""
    for message in messages:
        assert list(await broker.sender().send([message])) == [Confirmed()]
