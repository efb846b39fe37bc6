"""A cluster of Kafka that loses a node, and with it the leaders of some partitions, keeps what it confirmed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.kafka import kafka_broker
from pillarbox.brokers.kafka.layout import topic_of
from pillarbox.channel import Confirmed, Outcome
from pillarbox.errors import BrokerUnavailableError
from pillarbox.observe import BrokerAway, MessageHandled
from pillarbox.testing.contracts.broker_harness import letter, new_subscription, new_topic
from tests.conftest import skip_or_fail
from tests.integration.boxes import ChargePayment, OrderPlaced, make_box, publish
from tests.servers import ServerMissingError
from tests.servers.kafka import KafkaServer, cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from random import Random

    from pillarbox.channel import MessageReceiver, MessageSender
    from pillarbox.message import Message

MESSAGES, BATCH, KEYS = 3000, 100, 20


@pytest.fixture
def cluster_server(pytestconfig: pytest.Config) -> Iterator[list[KafkaServer]]:
    """Three nodes; the first is the controller, too."""
    try:
        yield from cluster()
    except ServerMissingError as missing:
        skip_or_fail(missing, pytestconfig)


async def test_what_was_confirmed_is_kept_and_in_order_when_a_node_is_lost(
    cluster_server: list[KafkaServer], rng: Random
) -> None:
    addresses = ",".join(node.address for node in cluster_server)
    broker = kafka_broker(f"kafka://{addresses}?partitions=6", clock=SystemClock())
    await broker.open()
    subscription = new_subscription(new_topic())
    await broker.declare([subscription])
    sent = [letter(f"m{number}", subscription.channels[0], key=f"k{rng.randrange(KEYS)}") for number in range(MESSAGES)]

    async with asyncio.TaskGroup() as group:
        under_way = asyncio.Event()
        sending = group.create_task(send_all(broker.sender(), sent, under_way))
        await under_way.wait()
        await asyncio.to_thread(cluster_server[rng.choice((1, 2))].kill)
    receiver = broker.receiver(subscription, owner="after")
    came = await receive_until_known(receiver, {one.id for one in sent})
    await receiver.close()
    await broker.close()

    print(f"{sending.result()} batches were not confirmed as a whole")
    for key in {one.key for one in sent}:
        first_arrivals = list(dict.fromkeys(one.id for one in came if one.key == key))
        assert first_arrivals == [one.id for one in sent if one.key == key]


async def test_a_topic_without_leaders_does_not_stop_the_others(
    cluster_server: list[KafkaServer], sqlite_url: str
) -> None:
    """A topic of one copy, whose node is lost: the broker is there for all other topics."""
    addresses = ",".join(node.address for node in cluster_server)
    admin = AdminClient({"bootstrap.servers": addresses})
    await wait_until(lambda: len(admin.list_topics(timeout=5).brokers) == len(cluster_server))
    await asyncio.to_thread(make_topics, admin, {"topic:order": 3, "queue:payments": 1})
    box, happenings = make_box(sqlite_url, broker=f"kafka://{addresses}?partitions=2")

    @box.on(ChargePayment, name="charge", idempotency="natural")
    async def charge(payment: ChargePayment) -> None:
        pass

    async with box.running():
        await publish(box, ChargePayment("o-1"))
        await happenings.until(MessageHandled)
        await asyncio.to_thread(cluster_server[2].kill)
        await publish(box, OrderPlaced("o-1"))
        await happenings.until(BrokerAway)
        await publish(box, ChargePayment("o-2"))
        await wait_until(lambda: len(happenings.of(MessageHandled)) == 2, timedelta(seconds=60))


def make_topics(admin: AdminClient, nodes: Mapping[str, int]) -> None:
    """Make the topics of channels, each with all its leaders on one node."""
    wanted = [
        NewTopic(topic_of(channel), num_partitions=2, replica_assignment=[[node]] * 2)
        for channel, node in nodes.items()
    ]
    for made in admin.create_topics(wanted).values():
        made.result()


async def send_all(sender: MessageSender, messages: list[Message], under_way: asyncio.Event) -> int:
    """Send as a relay does: of each key nothing before all earlier is confirmed; count the batches that failed."""
    failed = 0
    left = list(messages)
    while left:
        batch = left[:BATCH]
        results = await sender.send(batch)
        unconfirmed = [one for one, result in zip(batch, results, strict=True) if result != Confirmed()]
        failed += bool(unconfirmed)
        left = unconfirmed + left[BATCH:]
        if len(left) < MESSAGES * 2 // 3:
            under_way.set()
    return failed


async def receive_until_known(receiver: MessageReceiver, wanted: set[str]) -> list[Message]:
    """Receive until all of ``wanted`` came, some perhaps more than once."""
    came: list[Message] = []
    async with asyncio.timeout(60):
        while wanted - {one.id for one in came}:
            try:
                deliveries = await receiver.receive(500, within=timedelta(seconds=1))
            except BrokerUnavailableError:  # it was about to ask the node that is gone
                continue
            await receiver.settle(deliveries, Outcome.ACCEPTED)
            came += [one.message for one in deliveries]
    return came
