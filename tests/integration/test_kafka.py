"""Kafka as the broker: what its adapter does beyond the contract, and what it lives through."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition, admin
from sqlalchemy import select

from pillarbox import Pillarbox, event
from pillarbox.app.diagnosing import doctor_of
from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.kafka import KafkaBroker, kafka_broker
from pillarbox.brokers.kafka.layout import topic_of
from pillarbox.brokers.kafka.receiver import KafkaReceiver
from pillarbox.brokers.kafka.share import receipt_of
from pillarbox.channel import (
    Confirmed,
    NotReady,
    NotSent,
    Outcome,
    Refused,
    SendResult,
    Subscription,
    Unavailable,
    Unknown,
)
from pillarbox.control.diagnosis import DiagnosisLimits, Severity
from pillarbox.errors import BrokerUnavailableError, ConfigurationError
from pillarbox.observe import MessageDead, RecordParked
from pillarbox.relational.tables import held
from pillarbox.testing.contracts.broker_harness import letter, new_queue, new_subscription, new_topic, receive
from tests import effort
from tests.integration.boxes import (
    ChargePayment,
    create_tables,
    has_noted,
    make_box,
    noted,
    publish,
)
from tests.integration.shop import Shop
from tests.servers import KafkaServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from random import Random

    from pillarbox.channel import MessageReceiver, MessageSender
    from pillarbox.message import Message

OPTIONS = "partitions=4&heartbeat.interval.ms=100&session.timeout.ms=6000&drain=2"
WITHIN = timedelta(seconds=60)
STORM_S = effort.of(20, 8)
LEASE = timedelta(seconds=5)
TOPICS = effort.of(40, 12)
admin_of_client: Any = admin

JAVA_S_MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@event("bulky.made", key="key")
@dataclass(frozen=True)
class BulkyMade:
    """An event of whatever size."""

    key: str
    filling: str


@pytest.fixture
async def broker(kafka_server: KafkaServer) -> AsyncIterator[KafkaBroker]:
    """An open broker on the server of the run."""
    broker = kafka_broker(at(kafka_server), clock=SystemClock())
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
def operator(kafka_server: KafkaServer) -> Any:
    """A client of the test's own, which may do everything."""
    return admin_of_client.AdminClient({"bootstrap.servers": kafka_server.address})


@pytest.fixture
def service() -> str:
    """A name that no other test's box has, so that its consumers are new to every topic."""
    return f"shop-{uuid4().hex[:8]}"


def at(server: KafkaServer) -> str:
    """Where the server is, and how boxes use it."""
    return f"{server.url}?{OPTIONS}"


async def receive_all(
    receiver: MessageReceiver, confirmed: Collection[str], *, quiet: timedelta = timedelta(milliseconds=500)
) -> list[Message]:
    """Receive and accept until everything ``confirmed`` is there, and then nothing more comes for a while."""
    came: list[Message] = []

    async def has_all() -> bool:
        more = await receiver.receive(500, within=quiet)
        came.extend(one.message for one in more)
        await receiver.settle(more, Outcome.ACCEPTED)  # of one place so many are out at most
        return not more and {one.id for one in came}.issuperset(confirmed)

    await wait_until(has_all, WITHIN, works=True)
    return came


def confirmed_of(sent: Sequence[Message], results: Sequence[SendResult]) -> set[str]:
    """Return the ids of what was confirmed."""
    return {one.id for one, result in zip(sent, results, strict=True) if result == Confirmed()}


@asynccontextmanager
async def listening(broker: KafkaBroker, subscription: Subscription) -> AsyncGenerator[MessageReceiver]:
    await broker.declare([subscription])
    receiver = broker.receiver(subscription, owner=uuid4().hex)
    try:
        yield receiver
    finally:
        await receiver.close()


async def is_confirmed(sender: MessageSender, *messages: Message) -> bool:
    """Send ``messages`` and tell whether all were stored."""
    return set(await sender.send(messages)) == {Confirmed()}


async def send_until_confirmed(sender: MessageSender, message: Message) -> None:
    """Send ``message`` again and again: a server that has just started may need longer than a lease gives it."""
    await wait_until(lambda: is_confirmed(sender, message))


async def test_a_key_lies_where_a_java_client_would_put_it(broker: KafkaBroker) -> None:
    topic = new_topic()
    async with listening(broker, new_subscription(topic)) as receiver:
        await broker.sender().send([letter("m", topic, key=key) for key in JAVA_S_MURMUR2])

        came = await receive(receiver, len(JAVA_S_MURMUR2))

    found = {one.message.key: receipt_of(one).partition for one in came}
    assert found == {key: (number & 0x7FFFFFFF) % 4 for key, number in JAVA_S_MURMUR2.items()}


async def test_an_absent_server_is_an_error_that_waiting_may_help(private_kafka_server: KafkaServer) -> None:
    """One server for all that it goes through: away at first, killed under a sender, back again."""
    broker = kafka_broker(at(private_kafka_server), clock=SystemClock(), lease=LEASE)
    queue = new_queue()
    sender = broker.sender()
    await send_until_confirmed(sender, letter("m1", queue))
    await send_until_confirmed(sender, letter("m2", queue))
    await asyncio.to_thread(private_kafka_server.kill)

    with pytest.raises(BrokerUnavailableError, match="broker kafka is unavailable"):
        await broker.open()
    doubtful, absent = [await sender.send([letter(name, queue)]) for name in ("m3", "m4")]
    assert isinstance(doubtful[0], (Unknown, Unavailable))
    assert [type(one) for one in absent] == [Unavailable]

    await asyncio.to_thread(private_kafka_server.start)
    await broker.open()
    await send_until_confirmed(sender, letter("m5", queue))
    async with listening(broker, new_subscription(queue)) as receiver:
        came: list[str] = []
        while "m5" not in came:
            came += [one.message.id.partition("-")[0] for one in await receive(receiver, 1)]
    assert list(dict.fromkeys(came)) in (["m1", "m2", "m5"], ["m1", "m2", "m3", "m5"])
    await broker.close()


async def test_nothing_of_a_key_overtakes_a_message_that_its_topic_refuses(
    kafka_server: KafkaServer, operator: Any, rng: Random
) -> None:
    """However the client divides a batch into requests, and also where a partition knows nothing of the sender yet."""
    options = f"partitions=2&batch.num.messages={rng.choice([1, 2, 5])}"
    broker = kafka_broker(f"{kafka_server.url}?{options}", clock=SystemClock())
    for _ in range(4):
        topic = new_topic()
        make_strict(operator, topic, partitions=2)
        async with listening(broker, new_subscription(topic)) as receiver:
            too_large = rng.randrange(1, 20)
            bodies = [b"x" * (30_000 if number == too_large else 300) for number in range(40)]
            sent = [
                letter(f"m{number}", topic, key=rng.choice("abcd"), body=body) for number, body in enumerate(bodies)
            ]

            results = await broker.sender().send(sent)

            assert list(results[:too_large]) == [Confirmed()] * too_large
            assert isinstance(results[too_large], Refused)
            behind = [result for one, result in zip(sent, results, strict=True) if one.key == sent[too_large].key]
            assert set(behind[behind.index(results[too_large]) + 1 :]) <= {NotSent()}
            confirmed = confirmed_of(sent, results)
            came = await receive_all(receiver, confirmed)
            for key in "abcd":
                of_key = [one.id for one in sent if one.key == key]
                arrived = list(dict.fromkeys(one.id for one in came if one.key == key))
                assert arrived == of_key[: len(arrived)]
            assert confirmed == {one.id for one in came}
    await broker.close()


async def test_nothing_of_a_key_overtakes_the_first_message_of_a_partition(
    kafka_server: KafkaServer, operator: Any
) -> None:
    """While it is on its way the client prepares what follows, which a partition takes that knows nothing of it yet."""
    broker = kafka_broker(f"{kafka_server.url}?partitions=1&batch.num.messages=1", clock=SystemClock())
    for _ in range(TOPICS):
        topic = new_topic()
        make_strict(operator, topic, partitions=1)
        async with listening(broker, new_subscription(topic)) as receiver:
            first = letter("large", topic, key="k", body=b"x" * 30_000)
            behind = [letter(f"m{number}", topic, key="k") for number in range(4)]

            results = await broker.sender().send([first, *behind])

            assert isinstance(results[0], Refused)
            assert set(results[1:]) == {NotSent()}
            await broker.sender().send([letter("last", topic, key="k")])
            (came,) = await receive(receiver, 1)
            assert came.message.id.startswith("last")
    await broker.close()


async def test_nothing_of_a_key_overtakes_a_message_that_was_not_confirmed_in_time(
    private_kafka_server: KafkaServer, rng: Random
) -> None:
    broker = kafka_broker(f"{at(private_kafka_server)}&batch.num.messages=3", clock=SystemClock(), lease=LEASE)
    topic = new_topic()
    async with listening(broker, new_subscription(topic)) as receiver:
        sender = broker.sender()
        await sender.send([letter("m", topic)])
        sent = [letter(f"m{number}", topic, key=rng.choice("abcd")) for number in range(2000)]
        sending = asyncio.ensure_future(sender.send(sent))
        await SystemClock().sleep(timedelta(milliseconds=rng.uniform(5, 60)))
        private_kafka_server.pause()
        results = await sending
        private_kafka_server.resume()
        confirmed = confirmed_of(sent, results)
        came = await receive_all(receiver, confirmed, quiet=LEASE)

    assert not all(isinstance(one, Confirmed) for one in results), "it was paused in the middle"
    for key in "abcd":
        of_key = [(one.id, type(result)) for one, result in zip(sent, results, strict=True) if one.key == key]
        arrived = list(dict.fromkeys(one.id for one in came if one.key == key))
        assert arrived == [identity for identity, _ in of_key][: len(arrived)]
        assert {identity for identity, kind in of_key if kind is Confirmed} <= set(arrived)
        assert not {identity for identity, kind in of_key if kind in (Unavailable, NotSent)} & set(arrived)
    await broker.close()


async def test_a_forbidden_topic_refuses_and_does_not_stop_the_others(broker: KafkaBroker, operator: Any) -> None:
    forbidden, open_to_all = new_queue(), new_queue()
    await broker.sender().send([letter("m", forbidden), letter("m", open_to_all)])
    await asyncio.to_thread(forbid, operator, forbidden)
    sender = broker.sender()

    async def refused() -> bool:
        results = await sender.send([letter("m", forbidden), letter("m", open_to_all)])
        assert results[1] == Confirmed()
        return isinstance(results[0], Refused)

    await wait_until(refused, WITHIN, what="the rule has reached the broker")


async def test_topics_that_are_there_keep_their_shape_and_what_they_lack_is_told(
    broker: KafkaBroker, operator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topic = new_topic()
    operator.create_topics([admin_of_client.NewTopic(topic_of(topic), 2, 1)])[topic_of(topic)].result()
    caplog.set_level("INFO", logger="pillarbox.brokers.kafka")

    async with listening(broker, new_subscription(topic)):
        pass

    assert "has 2 partitions, declared are 4" in caplog.text


async def test_a_queue_has_one_consumer(broker: KafkaBroker) -> None:
    queue = new_queue()
    first = new_subscription(queue)
    await broker.declare([first])

    with pytest.raises(ConfigurationError, match="has the consumer"):
        await broker.declare([new_subscription(queue)])
    await broker.declare([first])


async def test_a_new_consumer_of_a_topic_begins_with_what_comes_then(broker: KafkaBroker) -> None:
    topic = new_topic()
    early = new_subscription(topic)
    await broker.declare([early])
    await broker.sender().send([letter("m1", topic)])
    late = new_subscription(topic)
    async with asyncio.TaskGroup() as group:  # several instances start at the same time
        for _ in range(3):
            group.create_task(broker.declare([late]))
    sent = letter("m2", topic)
    await broker.sender().send([sent])
    await broker.declare([late])

    async with listening(broker, late) as receiver:
        assert [one.message for one in await receive(receiver, 1)] == [sent]


async def test_what_waited_for_a_topic_is_for_its_first_consumer(broker: KafkaBroker) -> None:
    """A relay may send it as soon as the topic is there, before the consumer that has made it has a place."""
    topic = new_topic()
    waiting, later = letter("m1", topic), letter("m2", topic)
    assert isinstance((await broker.sender().send([waiting]))[0], NotReady)
    broker._topics.make([topic_of(topic)])
    assert list(await broker.sender().send([waiting])) == [Confirmed()]

    async with listening(broker, new_subscription(topic)) as first:
        assert [one.message for one in await receive(first, 1)] == [waiting]
        await broker.declare([second := new_subscription(topic)])
        await broker.sender().send([later])
        async with listening(broker, second) as receiver:
            assert [one.message for one in await receive(receiver, 1)] == [later], "it is not the first"


async def test_what_was_removed_unread_and_partitions_that_are_new_are_told_and_begun_at_the_oldest(
    broker: KafkaBroker, kafka_server: KafkaServer, operator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topic = new_topic()
    subscription = new_subscription(topic)
    await broker.declare([subscription])
    await broker.sender().send([letter(f"m{number}", topic) for number in range(6)])
    async with listening(broker, subscription) as receiver:
        out = await receive(receiver, 2)
        await receiver.settle(out, Outcome.ACCEPTED)
    name, partition = topic_of(topic), receipt_of(out[0]).partition
    for answer in operator.delete_records([TopicPartition(name, partition, 4)]).values():
        answer.result()
    operator.create_partitions([admin_of_client.NewPartitions(name, 6)])[name].result()

    async with listening(broker, subscription) as receiver:
        left = await receive(receiver, 2)
        assert [receipt_of(one).offset for one in left] == [4, 5]
        direct = Producer({"bootstrap.servers": kafka_server.address})
        for number in (4, 5):
            direct.produce(name, b"x", partition=number)
        direct.flush()
        assert {receipt_of(one).partition for one in await receive(receiver, 2)} == {4, 5}

    begun = [record for record in caplog.records if "begins anew with the oldest" in record.message]
    assert {record.levelname for record in begun} == {"ERROR"}
    assert f"{name} [{partition}]" in caplog.text
    assert f"{name} [5]" in caplog.text


async def test_a_topic_that_somebody_removed_is_not_ready_and_a_queue_is_made_again(
    broker: KafkaBroker, operator: Any
) -> None:
    topic, queue, other = new_topic(), new_queue(), new_queue()
    await broker.declare([new_subscription(topic)])
    sender = broker.sender()
    gone = [letter("gone", topic), letter("gone", queue)]
    assert set(await sender.send([*gone, letter("other", other)])) == {Confirmed()}
    for answer in operator.delete_topics([topic_of(topic), topic_of(queue)]).values():
        answer.result()

    async def is_told() -> bool:
        return isinstance((await sender.send([letter("later", topic)]))[0], NotReady)

    await wait_until(is_told, WITHIN)
    await wait_until(lambda: is_confirmed(sender, letter("later", queue)), WITHIN)
    assert list(await sender.send([letter("later", topic), letter("later", other)]))[1] == Confirmed()


async def test_a_topic_that_somebody_made_again_is_read_from_its_beginning_and_not_in_the_middle(
    broker: KafkaBroker, operator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    queue = new_queue()
    sender, name = broker.sender(), topic_of(queue)
    async with listening(broker, new_subscription(queue)) as receiver:
        former = [letter(f"former-{number}", queue, key="k") for number in range(3)]
        await receive_all(receiver, confirmed_of(former, await sender.send(former)))
        operator.delete_topics([name])[name].result()
        later = [letter(f"later-{number}", queue, key="k") for number in range(6)]
        await wait_until(lambda: is_confirmed(sender, *later), WITHIN)

        came = await receive_all(receiver, {one.id for one in later})

    assert {one.id for one in came} == {one.id for one in later}
    assert "since somebody removed the topic and made it again" in caplog.text


async def test_partitions_that_are_added_while_a_consumer_runs_are_told_of(
    broker: KafkaBroker, operator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    queue = new_queue()
    async with listening(broker, new_subscription(queue)) as receiver:
        await broker.sender().send([letter("m1", queue)])
        await receive(receiver, 1)
        operator.create_partitions([admin_of_client.NewPartitions(topic_of(queue), 6)])[topic_of(queue)].result()

        async def is_told() -> bool:
            await receiver.receive(1, within=timedelta(milliseconds=100))
            return "has 6 partitions, and had 4" in caplog.text

        await wait_until(is_told, WITHIN, works=True)


async def test_what_a_slow_handler_has_is_not_given_to_others_while_the_group_goes_on(
    kafka_server: KafkaServer,
) -> None:
    """It takes longer than a member may go without a poll; its partition is neither lost nor delivered again."""
    options = "partitions=4&heartbeat.interval.ms=100&session.timeout.ms=2500&max.poll.interval.ms=2500"
    broker = kafka_broker(f"{kafka_server.url}?{options}", clock=SystemClock())
    topic = new_topic()
    subscription = new_subscription(topic)
    async with listening(broker, subscription) as slow:
        await broker.sender().send([letter("m1", topic)])
        out = await receive(slow, 1)
        until = SystemClock().monotonic() + 4
        while SystemClock().monotonic() < until:
            assert list(await slow.receive(0, within=timedelta(milliseconds=500))) == []
        await slow.settle(out, Outcome.ACCEPTED)

        assert list(await slow.receive(10, within=timedelta(seconds=1))) == []
        async with listening(broker, subscription) as other:
            await slow.close()
            assert list(await other.receive(10, within=timedelta(seconds=2))) == []
    await broker.close()


async def test_partitions_that_come_back_are_read_though_they_were_lost_while_reading_was_paused(
    broker: KafkaBroker,
) -> None:
    """librdkafka keeps a pause of a partition beyond its assignment."""
    topic = new_topic()
    subscription = new_subscription(topic)
    await broker.declare([subscription])
    first, second = (broker.receiver(subscription, owner=owner) for owner in ("first", "second"))
    assert isinstance(first, KafkaReceiver)
    sent = [letter(f"m{number}", topic, key=f"k{number % 50}") for number in range(4_000)]
    await broker.sender().send(sent[:3_000])

    async def is_paused() -> bool:  # nothing is taken, so much is ready, and so the membership goes on
        await first.receive(0, within=timedelta(milliseconds=50))
        return first._pump is not None and first._pump._fill.is_paused

    await wait_until(is_paused, WITHIN, works=True)
    (given,) = await receive(second, 1)
    came = [given.message.id]
    await second.settle([given], Outcome.ACCEPTED)

    async def reads_on() -> bool:
        more = await first.receive(500, within=timedelta(milliseconds=50))
        came.extend(one.message.id for one in more)
        await first.settle(more, Outcome.ACCEPTED)
        return first._pump is not None and not first._pump._fill.is_paused

    await wait_until(reads_on, WITHIN, works=True)
    await second.close()
    await broker.sender().send(sent[3_000:])
    came += [one.id for one in await receive_all(first, {one.id for one in sent} - set(came))]
    await first.close()

    assert set(came) == {one.id for one in sent}


async def test_what_nobody_can_read_is_a_dead_letter(kafka_server: KafkaServer, sqlite_url: str, service: str) -> None:
    box, happenings = make_box(sqlite_url, broker=at(kafka_server), service=service)

    @box.on(ChargePayment, name="charge")
    async def charge(payment: ChargePayment) -> None:
        raise AssertionError(payment)

    async with box.running():
        direct = Producer({"bootstrap.servers": kafka_server.address})
        direct.produce(topic_of("queue:payments"), b"hello", b"key")
        direct.flush()
        (dead,) = await happenings.until(MessageDead)
        letters = await box.dead_letters.list()

    assert [one.message.body for one in letters] == [b"hello"]
    assert dead.message_id.startswith("kafka/_queue.payments/")


async def test_a_refused_message_is_parked_with_its_reason_and_other_keys_flow(
    kafka_server: KafkaServer, operator: Any, sqlite_url: str, service: str
) -> None:
    box, happenings = make_box(sqlite_url, broker=at(kafka_server), service=service)
    heard: list[str] = []
    both = asyncio.Event()

    @box.on(BulkyMade, name="hear")
    async def hear(made: BulkyMade) -> None:
        heard.append(made.key)
        if len(heard) == 2:
            both.set()

    make_strict(operator, "topic:bulky", partitions=2)
    async with box.running():
        await publish(box, BulkyMade("a", "-"), BulkyMade("b", "x" * 50_000), BulkyMade("c", "-"))
        async with asyncio.timeout(WITHIN.total_seconds()):
            await both.wait()
        (parked,) = await happenings.until(RecordParked)

    assert sorted(heard) == ["a", "c"]
    assert "MSG_SIZE_TOO_LARGE" in parked.reason


async def test_the_doctor_looks_at_the_broker_of_a_box(
    kafka_server: KafkaServer, sqlite_url: str, service: str
) -> None:
    box, _ = make_box(sqlite_url, broker=at(kafka_server), service=service)
    await box.migrate()
    await box.broker.declare([new_subscription(new_topic())])

    diagnosis = await doctor_of(box.store, DiagnosisLimits(), box.broker).examine()

    found = {one.code: one.severity for one in diagnosis.findings}
    assert found["replication-factor"] == Severity.NOTICE
    assert found["unclean-election"] == found["compaction"] == found["partition-count"] == Severity.OK
    await box.broker.close()
    await box.store.close()


async def test_the_doctor_judges_topics_of_ours_alone_and_one_that_is_gone_is_no_broker_that_is_away(
    broker: KafkaBroker, operator: Any
) -> None:
    gone, there, others = new_topic(), new_topic(), f"schemas-{uuid4().hex}"
    await broker.declare([new_subscription(gone)])
    made = [
        admin_of_client.NewTopic(topic_of(there), num_partitions=4),
        admin_of_client.NewTopic(others, num_partitions=1, config={"cleanup.policy": "compact"}),
    ]
    for answer in [*operator.create_topics(made).values(), *operator.delete_topics([topic_of(gone)]).values()]:
        answer.result()

    broker.look_at([there])
    findings = await broker.diagnose(deep=False)

    subjects = {one.subject for one in findings if one.subject.startswith("topic ")}
    assert subjects == {f"topic {topic_of(gone)}", f"topic {topic_of(there)}"}
    assert [one.subject for one in findings if one.code == "topic-absent"] == [f"topic {topic_of(gone)}"]


@pytest.mark.fault
async def test_members_that_come_and_go_lose_repeat_and_reorder_nothing(
    kafka_server: KafkaServer, postgresql_url: str, rng: Random
) -> None:
    """While keys are held and drained; the place of the group passes nothing that is not held and has no effect."""
    first = Shop(postgresql_url, at(kafka_server), rng).listen(faltering=True)
    members = [Shop(postgresql_url, at(kafka_server), rng, like=first).listen(faltering=True).box for _ in range(3)]
    samples, enough = list[Sample](), asyncio.Event()
    async with first.box.running():
        await create_tables(first.box)
        async with asyncio.TaskGroup() as group:
            group.create_task(first.write(enough))
            group.create_task(sample_places(kafka_server, first, samples, enough))
            await storm(members, rng)
            enough.set()
        await wait_until(has_noted(first.box, first.total), WITHIN, what=f"{first.total} effects")
        await first.check_at_rest()
        happened = await noted(first.box)

    print(f"{first.total} orders, {len(first.failures)} of them held for a while, {len(samples)} samples")
    first.check(happened)
    records = await asyncio.to_thread(all_records, kafka_server, first.topic)
    for sample in samples:
        for (partition, offset), order in records.items():
            assert offset >= sample.places[partition] or order in sample.kept, (partition, offset, order)


@dataclass(frozen=True)
class Sample:
    """The places of a group, and the orders that were held or had their effect a moment later."""

    places: dict[int, int]
    kept: set[str]


async def sample_places(server: KafkaServer, shop: Shop, samples: list[Sample], until: asyncio.Event) -> None:
    asking: Any = Consumer({"bootstrap.servers": server.address, "group.id": f"{shop.service}/note"})
    partitions = [TopicPartition(shop.topic, number) for number in range(4)]
    while not until.is_set():
        places = await asyncio.to_thread(asking.committed, partitions, 10)
        waiting = await held_orders(shop.box)  # first: what is handled meanwhile is found among the effects
        samples.append(Sample({one.partition: one.offset for one in places}, {*waiting, *await noted(shop.box)}))
        await SystemClock().sleep(timedelta(milliseconds=300))
    asking.close()


async def held_orders(box: Pillarbox) -> set[str]:
    """Return the orders that are held, as the effects that they will have."""
    async with box.transaction() as tx:
        bodies = (await tx.scalars(select(held.c.body))).all()
    orders = [json.loads(body) for body in bodies]
    return {f"{order['order_id']} {order['number']}" for order in orders}


async def storm(members: Sequence[Pillarbox], rng: Random) -> None:
    """Have a member join or leave every one to three seconds, for a while."""
    clock = SystemClock()
    until = clock.monotonic() + STORM_S
    waiting = deque(members)
    running = deque[tuple[Pillarbox, AsyncExitStack]]()
    try:
        while clock.monotonic() < until:
            if running and (not waiting or rng.random() < 0.5):
                box, stack = running.popleft()
                await stack.aclose()
                waiting.append(box)
            else:
                box, stack = waiting.popleft(), AsyncExitStack()
                await stack.enter_async_context(box.running())
                running.append((box, stack))
            await clock.sleep(timedelta(seconds=rng.uniform(1, 3)))
    finally:
        for _, stack in running:
            await stack.aclose()


def all_records(server: KafkaServer, topic: str) -> dict[tuple[int, int], str]:
    """Read a topic from end to end: which order lies where."""
    reading: Any = Consumer(
        {"bootstrap.servers": server.address, "group.id": uuid4().hex, "enable.partition.eof": True}
    )
    reading.assign([TopicPartition(topic, number, 0) for number in range(4)])
    found: dict[tuple[int, int], str] = {}
    ends = 0
    while ends < 4:
        record = reading.poll(10)
        assert record is not None
        if record.error() is not None:
            ends += 1
            continue
        order = json.loads(record.value())
        found[record.partition(), record.offset()] = f"{order['order_id']} {order['number']}"
    reading.close()
    return found


def make_strict(operator: Any, address: str, *, partitions: int) -> None:
    """Make a topic that takes no large messages; one that is told so later may take some more."""
    name, config = topic_of(address), {"max.message.bytes": "20000"}
    operator.create_topics([admin_of_client.NewTopic(name, partitions, 1, config=config)])[name].result()


def forbid(operator: Any, address: str) -> None:
    """Let nobody write to a topic."""
    rule = admin_of_client.AclBinding(
        admin_of_client.ResourceType.TOPIC,
        topic_of(address),
        admin_of_client.ResourcePatternType.LITERAL,
        "User:ANONYMOUS",
        "*",
        admin_of_client.AclOperation.WRITE,
        admin_of_client.AclPermissionType.DENY,
    )
    for answer in operator.create_acls([rule]).values():
        answer.result()
