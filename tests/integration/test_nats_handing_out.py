"""What a consumer on NATS gets as its connection is lost, and from one that is dead."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from nats.errors import ConnectionClosedError

from pillarbox.brokers.nats import NatsBroker, nats_broker
from pillarbox.brokers.nats.api import JetStream
from pillarbox.brokers.nats.pull import Pull
from pillarbox.brokers.nats.receiver import SIDE_BY_SIDE, NatsReceiver
from pillarbox.brokers.partitions import PARTITIONS
from pillarbox.errors import BrokerUnavailableError
from pillarbox.testing.contracts.broker_harness import (
    BrokerHarness,
    letter,
    listening,
    new_subscription,
    new_topic,
    receive,
)
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillarbox.brokers.partitions import PartitionLeases
    from tests.servers import NatsServer


@pytest.fixture
async def broker(nats_server: NatsServer, leases: PartitionLeases) -> AsyncIterator[NatsBroker]:
    """An open broker on the server of the run."""
    broker = nats_broker(nats_server.url, leases=leases)
    await broker.open()
    yield broker
    await broker.close()


async def test_what_is_handed_out_when_no_more_can_be_asked_for_reaches_the_consumer(
    broker: NatsBroker, harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody has it in hand, it is never settled, and what follows it of its key comes first."""
    topic = new_topic()
    sent = [letter(f"m{number}", topic, key="k") for number in range(6)]
    handed: list[str] = []

    async def is_lost(*_: Any, **__: Any) -> None:
        raise ConnectionClosedError

    async with listening(harness, new_subscription(topic)) as receiver:
        await receiver.receive(1, within=timedelta(0))
        monkeypatch.setattr(Pull, "ask", lambda *_, **__: 1)
        monkeypatch.setattr(NatsReceiver, "_pull_next", is_lost)
        await broker.sender().send(sent)

        async def have_come() -> bool:
            try:
                handed.extend(one.message.id for one in await receiver.receive(2, within=timedelta(0)))
            except BrokerUnavailableError:
                return False
            return len(handed) >= len(sent)

        await wait_until(have_come, timedelta(seconds=10), what="all that came")

    assert handed == [one.id for one in sent]


async def test_much_that_is_pending_is_read_side_by_side_and_handed_out_in_order(
    broker: NatsBroker, harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = new_topic()
    subscription = new_subscription(topic)
    await broker.declare([subscription])
    sent = [letter(f"m{number}", topic, key="k") for number in range(150)]
    dead = broker.receiver(subscription, owner="dead")
    await dead.receive(1, within=timedelta(0))
    await broker.sender().send(sent)
    await receive(dead, len(sent))
    under_way, most = 0, 0
    read = JetStream.message

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await read(*arguments, **options)
        finally:
            under_way -= 1

    monkeypatch.setattr(JetStream, "message", counted)
    async with listening(harness, subscription) as follower:
        came = await receive(follower, len(sent))
    await dead.close()

    assert [one.message.id for one in came] == [one.id for one in sent]
    assert most == SIDE_BY_SIDE


async def test_each_partition_has_its_turn_however_often_leases_are_lost(
    broker: NatsBroker, harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is time to begin with one partition only, the last ones would never be read."""
    begun: set[str] = set()
    attach = NatsReceiver._attach

    async def noted(self: NatsReceiver, link: Any, share: Pull) -> None:
        begun.add(share.name)
        await attach(self, link, share)

    monkeypatch.setattr(NatsReceiver, "_attach", noted)
    async with listening(harness, new_subscription(new_topic())) as receiver:
        assert isinstance(receiver, NatsReceiver)
        receiver._renew_after_s = 0.0
        for _ in range(PARTITIONS):
            await receiver.receive(0, within=timedelta(0))
            for share in receiver._shares:
                share.token = None

    assert len(begun) == PARTITIONS
