"""NATS as the broker: what its adapter does beyond the contract, and what it lives through."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Pillarbox, RelaySettings, event
from pillarbox.app.controlling import control_of
from pillarbox.app.diagnosing import doctor_of
from pillarbox.brokers.nats import NatsBroker, nats_broker
from pillarbox.brokers.nats import receiver as receiving
from pillarbox.brokers.nats.api import Consumer, JetStream
from pillarbox.brokers.nats.connection import NatsConnection
from pillarbox.brokers.nats.consumers import NANOSECONDS, declare, make_stream, trim
from pillarbox.brokers.nats.layout import durable_of, stream_of, subject_of
from pillarbox.brokers.nats.receiver import TRIM_AFTER
from pillarbox.brokers.partitions import PARTITIONS, PartitionLeases, partition_of
from pillarbox.channel import Confirmed, NotReady, Outcome, Refused, Subscription, Unavailable, Unknown
from pillarbox.control.diagnosis import DiagnosisLimits, Severity
from pillarbox.errors import BrokerUnavailableError, ConfigurationError
from pillarbox.message import Limits
from pillarbox.observe import DuplicateSuppressed, MessageDead, RecordParked
from pillarbox.serialization import ForeignMessages
from pillarbox.testing.contracts.broker_harness import (
    BrokerHarness,
    assert_silent,
    letter,
    listening,
    new_queue,
    new_subscription,
    new_topic,
    receive,
)
from tests.fault.story import stay_open
from tests.integration.boxes import (
    SETTINGS,
    ChargePayment,
    Happenings,
    OrderPlaced,
    by_key,
    create_tables,
    has_noted,
    make_box,
    note,
    noted,
    publish,
)
from tests.integration.shop import receive_all_but_first
from tests.servers import NatsServer
from tests.waiting import Deadline, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillarbox.brokers.nats.pull import Pull
    from pillarbox.channel import MessageReceiver
    from pillarbox.message import Message

WITHIN = timedelta(seconds=30)
DEAF = timedelta(0)
SLOW_READ_MS = 20
"""As many as there are together take longer than a lease lasts."""
LONG_AGO = datetime.fromisoformat("2020-01-01T00:00:00+00:00")
REFUNDS = "topic:refund"
OTHER_KEY = "k2"
"""Of another partition than ``letter`` takes."""


@event("refund.issued", key="refund_id")
@dataclass(frozen=True)
class RefundIssued:
    """Of a topic that no other test uses."""

    refund_id: str


@pytest.fixture
async def broker(nats_server: NatsServer, leases: PartitionLeases) -> AsyncIterator[NatsBroker]:
    """An open broker on the server of the run."""
    broker = nats_broker(nats_server.url, leases=leases)
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
async def nats(nats_server: NatsServer) -> AsyncIterator[NatsConnection]:
    """A connection of the test's own."""
    connection = NatsConnection([nats_server.url])
    yield connection
    await connection.close()


@pytest.fixture
def jetstream(nats: NatsConnection) -> JetStream:
    """JetStream over that connection."""
    return JetStream(nats)


def where(message: Message) -> tuple[str, str]:
    """Return the stream and the subject of a message."""
    return stream_of(message.destination), subject_of(message.destination, partition_of(message))


def durable(subscription: Subscription, message: Message) -> str:
    """Return the consumer that gets ``message``."""
    return durable_of(subscription.consumer, partition_of(message))


async def count(jetstream: JetStream, channel: str) -> int:
    """Count what lies in the stream of a channel."""
    found = await jetstream.stream(stream_of(channel))
    return 0 if found is None else int(found["state"]["messages"])


async def let_redeliver_soon(jetstream: JetStream, subscription: Subscription, message: Message) -> None:
    """Have the server deliver again after a second what is not acknowledged."""
    stream, _ = where(message)
    consumer = await jetstream.consumer(stream, durable(subscription, message))
    assert consumer is not None
    config = {**consumer.config, "ack_wait": NANOSECONDS}
    await jetstream.ask(f"CONSUMER.DURABLE.CREATE.{stream}.{consumer.name}", stream_name=stream, config=config)


async def pending(jetstream: JetStream, subscription: Subscription, message: Message) -> int:
    """Count what is delivered and not acknowledged in the partition of ``message``."""
    consumer = await jetstream.consumer(where(message)[0], durable(subscription, message))
    assert consumer is not None
    return consumer.pending


def nothing_pending(
    jetstream: JetStream, subscription: Subscription, message: Message, receiver: MessageReceiver | None = None
) -> Callable[[], Awaitable[bool]]:
    """Whether all in the partition of ``message`` is acknowledged; meanwhile ``receiver`` is handed nothing."""

    async def is_so() -> bool:
        if receiver is not None:
            assert list(await receiver.receive(10, within=timedelta(milliseconds=50))) == []
        return await pending(jetstream, subscription, message) == 0

    return is_so


async def test_an_absent_server_is_an_error_that_waiting_may_help(
    private_nats_server: NatsServer, leases: PartitionLeases
) -> None:
    broker = nats_broker(private_nats_server.url, leases=leases)
    private_nats_server.stop()

    with pytest.raises(BrokerUnavailableError, match="broker nats is unavailable"):
        await broker.open()
    results = await broker.sender().send([letter("m1", new_queue()), letter("m2", new_queue())])
    assert [type(result) for result in results] == [Unavailable] * 2
    private_nats_server.start()
    await broker.open()
    await broker.close()


async def test_a_server_without_jetstream_says_what_to_do(leases: PartitionLeases, nats_server: NatsServer) -> None:
    class Plain(NatsServer):
        def command(self) -> list[str]:
            words = list(super().command())
            return words[: words.index("-js")]

    assert nats_server is not None  # so that this runs where a server is to be had
    with Plain() as plain:
        broker = nats_broker(plain.url, leases=leases)
        with pytest.raises(BrokerUnavailableError, match="JetStream"):
            await broker.open()
        await broker.close()


@pytest.mark.parametrize("url", ["nats://", "nats://h:4222?replicas=9", "nats://h:4222?what=1", "nats:h"])
def test_what_is_no_url_is_refused(leases: PartitionLeases, url: str) -> None:
    with pytest.raises(ConfigurationError, match="NATS"):
        nats_broker(url, leases=leases)


async def test_a_message_that_the_server_never_takes_is_refused_and_the_others_stored(
    broker: NatsBroker, harness: BrokerHarness
) -> None:
    topic = new_topic()
    async with listening(harness, new_subscription(topic)) as receiver:
        sent = [letter("m1", topic), letter("m2", topic, body=b"x" * (2 << 20)), letter("m3", topic)]

        results = await broker.sender().send(sent)

        assert [type(result) for result in results] == [Confirmed, Refused, Confirmed]
        assert isinstance(results[1], Refused)
        assert "max_payload" in results[1].reason
        assert [one.message for one in await receive(receiver, 2)] == [sent[0], sent[2]]


async def test_headers_count_towards_what_the_server_takes(broker: NatsBroker, harness: BrokerHarness) -> None:
    """A message that is too large by its headers alone would end the connection."""
    topic = new_topic()
    async with listening(harness, new_subscription(topic)) as receiver:
        plain = letter("m1", topic, body=b"x" * ((1 << 20) - 500))
        big = structs.replace(plain, id="m2", headers={**plain.headers, "note": "v" * 1000})

        results = await broker.sender().send([plain, big])

        assert [type(result) for result in results] == [Confirmed, Refused]
        assert [one.message for one in await receive(receiver, 1)] == [plain]


async def test_two_mebibytes_are_parked_with_their_reason_and_other_keys_flow(
    nats_server: NatsServer, sqlite_url: str
) -> None:
    large = replace(SETTINGS, limits=Limits(max_body_bytes=4 << 20))
    box, happenings = make_box(sqlite_url, broker=nats_server.url, settings=large)

    @box.on(OrderPlaced, name="note-large")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, f"{order.order_id[:1]} {order.number}")

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("a", 1))
        async with box.transaction() as tx:
            await box.publish(OrderPlaced("x" * (2 << 20), 1), tx=tx, key="b")
        await publish(box, OrderPlaced("a", 2))
        (parked,) = await happenings.until(RecordParked)
        await wait_until(has_noted(box, 2), WITHIN)

        assert by_key(await noted(box)) == {"a": [1, 2]}
    assert "max_payload" in parked.reason


async def test_what_is_sent_twice_is_stored_once(broker: NatsBroker, jetstream: JetStream) -> None:
    queue = new_queue()
    message = letter("m1", queue)

    assert list(await broker.sender().send([message])) == [Confirmed()]
    assert list(await broker.sender().send([message])) == [Confirmed()]

    assert await count(jetstream, queue) == 1


async def test_a_full_stream_is_not_the_messages_fault(broker: NatsBroker, jetstream: JetStream) -> None:
    queue = new_queue()
    assert list(await broker.sender().send([letter("m1", queue)])) == [Confirmed()]
    found = await jetstream.stream(stream_of(queue))
    assert found is not None
    await jetstream.ask(f"STREAM.UPDATE.{stream_of(queue)}", **{**found["config"], "max_msgs": 1})

    (full,) = await broker.sender().send([letter("m2", queue)])

    assert isinstance(full, NotReady), "it holds up its own channel alone"
    assert "maximum messages" in full.reason


async def test_a_stream_whose_subjects_somebody_changed_holds_up_its_own_channel_alone(
    broker: NatsBroker, jetstream: JetStream
) -> None:
    changed, other = new_queue(), new_queue()
    assert list(await broker.sender().send([letter("m1", changed)])) == [Confirmed()]
    found = await jetstream.stream(stream_of(changed))
    assert found is not None
    config = {**found["config"], "subjects": [f"elsewhere.{stream_of(changed)[6:]}"]}
    await jetstream.ask(f"STREAM.UPDATE.{stream_of(changed)}", **config)

    results = await broker.sender().send([letter("m2", changed), letter("m3", other)])

    assert [type(result) for result in results] == [NotReady, Confirmed]


async def test_what_a_former_owner_took_and_never_handled_is_found_in_order(
    broker: NatsBroker, harness: BrokerHarness, nats: NatsConnection
) -> None:
    """It is paused, and its question for messages stood at the server before ours."""
    topic = new_topic()
    subscription = new_subscription(topic)
    await broker.declare([subscription])
    sent = [letter(f"m{number}", topic) for number in range(5)]
    client = (await nats.link()).client
    taken = await client.subscribe(client.new_inbox())
    question = f"$JS.API.CONSUMER.MSG.NEXT.{where(sent[0])[0]}.{durable(subscription, sent[0])}"
    await client.publish(question, b'{"batch": 3, "expires": 30000000000}', reply=taken.subject)
    await client.flush()
    async with listening(harness, subscription) as receiver:
        assert list(await receiver.receive(1, within=DEAF)) == []
        await broker.sender().send(sent)

        came = await receive(receiver, 5)

    assert [one.message for one in came] == sent
    assert taken.pending_msgs == 3, "the former owner took none"


async def test_whoever_takes_over_finds_what_was_not_acknowledged_first(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "ASKED_FOR_S", 2)  # the silent one's question takes redeliveries for so long
    topic = new_topic()
    subscription = new_subscription(topic)
    await broker.declare([subscription])
    first = broker.receiver(subscription, owner="first")
    sent = [letter(f"m{number}", topic) for number in range(5)]
    await broker.sender().send(sent[:3])
    out = await receive(first, 3)
    await first.settle(out[:1], Outcome.ACCEPTED)
    await let_redeliver_soon(jetstream, subscription, sent[0])
    await broker.sender().send(sent[3:])

    async with listening(harness, subscription) as successor:  # the first one falls silent; its lease ends
        came = await receive(successor, 4)
        assert [one.message for one in came] == sent[1:]
        await successor.settle(came, Outcome.ACCEPTED)

        async def is_acknowledged() -> bool:
            await assert_silent(successor)
            return await pending(jetstream, subscription, sent[0]) == 0

        await wait_until(is_acknowledged, WITHIN, what="acknowledgements of what was read from the stream")
    await first.close()


async def test_whoever_follows_one_that_stopped_is_given_what_that_had_not_settled_and_nothing_else(
    broker: NatsBroker, harness: BrokerHarness
) -> None:
    """Also of what lies behind the first that is not acknowledged, some of which is."""
    topic = new_topic()
    subscription = new_subscription(topic)
    async with listening(harness, subscription) as first:
        sent = [letter(f"m{number}", topic) for number in range(20)]
        await broker.sender().send(sent)
        out = await receive(first, 12)
        await first.settle(out[1::2], Outcome.ACCEPTED)

    async with listening(harness, subscription) as second:
        assert [one.message for one in await receive(second, 14)] == [*sent[0:12:2], *sent[12:]]
        await assert_silent(second)


async def test_what_moves_to_an_instance_that_joins_is_settled_for_good(
    broker: NatsBroker, harness: BrokerHarness
) -> None:
    """Who gives partitions up returns what it had fetched ahead; when the new one stops, nothing comes once more."""
    topic = new_topic()
    subscription = new_subscription(topic)
    sent = [letter(f"m{number}", topic, key=f"k{number}") for number in range(100)]
    handled: list[str] = []

    async def go_on(receiver: MessageReceiver, *, limit: int = 100) -> bool:
        came = await receiver.receive(limit, within=DEAF)
        await receiver.settle(came, Outcome.ACCEPTED)
        handled.extend(one.message.id for one in came)
        return bool(came)

    async with listening(harness, subscription) as first:
        assert list(await first.receive(1, within=DEAF)) == []
        await broker.sender().send(sent)
        (out,) = await receive(first, 1)
        async with listening(harness, subscription) as second:

            async def has_got_some() -> bool:
                await first.receive(0, within=DEAF)
                return await go_on(second)

            await wait_until(has_got_some, WITHIN, what="partitions for the second instance")
            while await go_on(second):
                pass
        await first.settle([out], Outcome.ACCEPTED)
        handled.append(out.message.id)

        async def has_all() -> bool:
            await go_on(first)
            return {*handled} == {one.id for one in sent}

        await wait_until(has_all, WITHIN, what="the rest")
        await assert_silent(first)

    assert len(handled) == len(sent)


async def test_a_handler_slower_than_the_servers_patience_gets_its_message_once(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream
) -> None:
    topic = new_topic()
    subscription = new_subscription(topic)
    message = letter("m1", topic)
    async with listening(harness, subscription) as receiver:
        await let_redeliver_soon(jetstream, subscription, message)
        await broker.sender().send([message])
        out = await receive(receiver, 1)

        async def came_again() -> bool:
            assert list(await receiver.receive(10, within=timedelta(milliseconds=100))) == []
            consumer = await jetstream.consumer(where(message)[0], durable(subscription, message))
            return consumer is not None and consumer.delivered >= 3

        await wait_until(came_again, WITHIN, what="deliveries of the same message")
        await receiver.settle(out, Outcome.ACCEPTED)

        async def is_acknowledged() -> bool:
            assert list(await receiver.receive(10, within=timedelta(milliseconds=100))) == []
            return await pending(jetstream, subscription, message) == 0

        await wait_until(is_acknowledged, WITHIN)


async def test_the_server_is_told_of_a_message_that_is_worked_on_and_does_not_deliver_it_again(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "TOUCH_EVERY_S", 0.3)
    topic = new_topic()
    subscription = new_subscription(topic)
    message = letter("m1", topic)
    async with listening(harness, subscription) as receiver:
        await let_redeliver_soon(jetstream, subscription, message)
        await broker.sender().send([message])
        out = await receive(receiver, 1)

        until = Deadline(timedelta(seconds=2.5))  # the server's patience is one second
        while not until.passed:
            assert list(await receiver.receive(10, within=timedelta(milliseconds=100))) == []

        consumer = await jetstream.consumer(where(message)[0], durable(subscription, message))
        assert consumer is not None
        assert (consumer.delivered, consumer.pending) == (1, 1)
        await receiver.settle(out, Outcome.ACCEPTED)


async def test_messages_are_removed_once_the_slowest_consumer_has_them_behind_it(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream
) -> None:
    topic = new_topic()
    quick, slow = new_subscription(topic), new_subscription(topic)
    await broker.declare([quick, slow])
    sent = [letter(f"m{number}", topic) for number in range(TRIM_AFTER)]
    await broker.sender().send(sent)
    async with listening(harness, quick) as receiver:
        came = await receive_all_but_first(receiver, TRIM_AFTER)
        await receiver.settle(came[:1], Outcome.ACCEPTED)
        assert await count(jetstream, topic) == TRIM_AFTER, "the slow one has read nothing"

    async with listening(harness, slow) as receiver:
        came = await receive_all_but_first(receiver, TRIM_AFTER)
        assert [one.message for one in came] == sent, "and misses nothing"
        assert await count(jetstream, topic) == TRIM_AFTER, "the first is not acknowledged"
        await receiver.settle(came[:1], Outcome.ACCEPTED)
        more = [letter(f"n{number}", topic) for number in range(TRIM_AFTER)]
        await broker.sender().send(more)
        came = await receive_all_but_first(receiver, TRIM_AFTER)
        await receiver.settle(came[:1], Outcome.ACCEPTED)

    assert await count(jetstream, topic) == TRIM_AFTER, "what both have behind them is gone"


async def test_what_is_pending_when_a_partition_is_trimmed_is_given_to_a_successor(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream
) -> None:
    """NATS 2.9 forgets at a purge of one subject what its consumers have pending."""
    topic = new_topic()
    subscription = new_subscription(topic)
    await broker.declare([subscription])
    first = broker.receiver(subscription, owner="first")
    sent = [letter(f"m{number}", topic) for number in range(20)]
    await broker.sender().send(sent)
    out = await receive(first, 20)
    await first.settle([*out[:5], *out[10:]], Outcome.ACCEPTED)

    async def is_acknowledged() -> bool:
        return await pending(jetstream, subscription, sent[0]) == 5

    await wait_until(is_acknowledged, WITHIN)
    await trim(jetstream, topic, partition_of(sent[0]))

    assert await pending(jetstream, subscription, sent[0]) == 5
    assert await count(jetstream, topic) == 15
    async with listening(harness, subscription) as successor:  # the first one falls silent; its lease ends
        assert [one.message for one in await receive(successor, 5)] == sent[5:10]
    await first.close()


async def test_a_connection_lost_while_messages_are_deleted_is_told_of_and_the_next_time_deletes_the_rest(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream, nats_server: NatsServer
) -> None:
    """NATS 2.9 is asked to delete one by one; newer ones have one question to fail at."""
    topic = new_topic()
    subscription = new_subscription(topic)
    await broker.declare([subscription])
    sent = [letter(f"m{number}", topic) for number in range(20)]
    await broker.sender().send(sent)
    async with listening(harness, subscription) as receiver:
        await receiver.settle(await receive(receiver, 20), Outcome.ACCEPTED)
        await wait_until(nothing_pending(jetstream, subscription, sent[0]), WITHIN)
        stream, subject = where(sent[0])
        lost = _DeletesNothing([nats_server.url])
        try:
            with pytest.raises(BrokerUnavailableError, match="lost"):
                await JetStream(lost).remove(stream, subject, up_to=20, known=range(1, 21))
        finally:
            await lost.close()
        await jetstream.remove(stream, subject, up_to=20, known=range(1, 21))

    assert await count(jetstream, topic) == 0


class _DeletesNothing(NatsConnection):
    """Is lost whenever something is to be deleted."""

    async def request(self, subject: str, payload: bytes) -> bytes:
        if ".DELETE." in subject or ".PURGE." in subject:
            raise BrokerUnavailableError(broker="nats", reason="lost")
        return await super().request(subject, payload)


@pytest.mark.parametrize(("keys", "reads"), [(320, 320), (1, 160)], ids=["of-all-partitions", "of-one-partition"])
async def test_who_must_read_much_that_is_pending_keeps_its_leases_meanwhile(
    broker: NatsBroker, harness: BrokerHarness, monkeypatch: pytest.MonkeyPatch, keys: int, reads: int
) -> None:
    """Else another takes what is not read yet, needs as long, and loses it in the same way."""
    topic = new_topic()
    subscription = new_subscription(topic)
    await broker.declare([subscription])
    sent = [letter(f"m{number}", topic, key=f"k{number % keys}") for number in range(reads)]
    dead = broker.receiver(subscription, owner="dead")
    await dead.receive(1, within=DEAF)
    await broker.sender().send(sent)
    await receive(dead, len(sent))
    handed = Counter[str]()
    read = JetStream.message

    async def slowly(*arguments: Any, **options: Any) -> Any:
        await stay_open(SLOW_READ_MS)
        return await read(*arguments, **options)

    async def work(receiver: MessageReceiver) -> None:
        while len(handed) < len(sent):
            came = await receiver.receive(50, within=timedelta(milliseconds=100))
            handed.update(one.message.id for one in came)
            await receiver.settle(came, Outcome.ACCEPTED)

    monkeypatch.setattr(JetStream, "message", slowly)
    async with (
        listening(harness, subscription) as one,
        listening(harness, subscription) as another,
        asyncio.timeout(WITHIN.total_seconds()),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(work(one))
        group.create_task(work(another))
    await dead.close()

    assert [name for name, times in handed.items() if times > 1] == []


async def test_consumers_that_are_gone_begin_again_with_all_that_is_there(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream
) -> None:
    queue = new_queue()
    subscription = new_subscription(queue)
    message = letter("m1", queue)
    async with listening(harness, subscription) as receiver:
        assert list(await receiver.receive(1, within=DEAF)) == []
        await jetstream.ask(f"STREAM.DELETE.{stream_of(queue)}")
        assert list(await broker.sender().send([message])) == [Confirmed()]

        assert [one.message for one in await receive(receiver, 1)] == [message]


@pytest.mark.parametrize("settled", [True, False], ids=["settled", "out"])
async def test_a_stream_that_is_made_again_is_read_from_its_beginning_whatever_lay_there_before(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream, settled: bool
) -> None:
    """Its sequences begin again: what is there now must not be taken for what lay there."""
    queue = new_queue()
    subscription = new_subscription(queue)
    before, now = (letter(name, queue) for name in ("before", "now"))
    async with listening(harness, subscription) as receiver:
        await broker.sender().send([before])
        out = await receive(receiver, 1)
        if settled:
            await receiver.settle(out, Outcome.ACCEPTED)
        await jetstream.ask(f"STREAM.DELETE.{stream_of(queue)}")
        assert list(await broker.sender().send([now])) == [Confirmed()]

        came = await receive(receiver, 1)

        assert [one.message for one in came] == [now]
        await receiver.settle(out, Outcome.ACCEPTED)
        assert await pending(jetstream, subscription, now) == 1, "only what was before is settled"
        await receiver.settle(came, Outcome.ACCEPTED)
        # what was read from the stream can be acknowledged only once it is delivered again
        await let_redeliver_soon(jetstream, subscription, now)
        await wait_until(nothing_pending(jetstream, subscription, now, receiver), WITHIN)


async def test_of_a_stream_that_is_made_again_nothing_is_removed_for_what_lay_in_the_one_before(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where messages are deleted one by one, by their sequences, which others have by now."""
    monkeypatch.setattr(receiving, "TRIM_AFTER", 19)
    queue = new_queue()
    subscription = new_subscription(queue)
    before = [letter(f"b{number}", queue) for number in range(9)]
    others = [letter(f"o{number}", queue, key=OTHER_KEY) for number in range(9)]
    now = [letter(f"n{number}", queue) for number in range(10)]
    assert partition_of(before[0]) != partition_of(others[0])
    async with listening(harness, subscription) as receiver:
        await broker.sender().send(before)
        await receiver.settle(await receive(receiver, 9), Outcome.ACCEPTED)
        await jetstream.ask(f"STREAM.DELETE.{stream_of(queue)}")
        await broker.sender().send(others)
        await broker.sender().send(now)

        *done, last = [one for one in await receive(receiver, 19) if one.message in now]
        await receiver.settle(done, Outcome.ACCEPTED)

        async def is_acknowledged() -> bool:
            return await pending(jetstream, subscription, now[0]) == 1

        await wait_until(is_acknowledged, WITHIN)
        await receiver.settle([last], Outcome.ACCEPTED)
        assert 9 <= await count(jetstream, queue) <= 10

    async with listening(harness, subscription) as successor:
        assert [one.message for one in await receive(successor, 9)] == others


@pytest.fixture
def hard_of_hearing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receivers that hear of the first partition only that its consumer was removed; the rest is lost on its way."""
    hear = receiving.NatsReceiver._hear

    def hear_of_the_first(self: receiving.NatsReceiver, share: Pull, status: str) -> None:
        if share.partition == 0:
            hear(self, share, status)

    monkeypatch.setattr(receiving.NatsReceiver, "_hear", hear_of_the_first)
    monkeypatch.setattr(receiving, "COUNT_EVERY_S", 0.5)


@pytest.mark.usefixtures("hard_of_hearing")
async def test_when_all_consumers_are_gone_each_partition_begins_again(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream
) -> None:
    """Whoever misses one makes all of them: then none of the others is missing any more."""
    queue = new_queue()
    subscription = new_subscription(queue)
    sent = [letter(f"m{number}", queue, key=f"k{number}") for number in range(20)]
    async with listening(harness, subscription) as receiver:
        assert list(await receiver.receive(1, within=DEAF)) == []
        await jetstream.ask(f"STREAM.DELETE.{stream_of(queue)}")
        assert list(await broker.sender().send(sent)) == [Confirmed()] * len(sent)

        came = await receive(receiver, len(sent))

    assert {one.message.id for one in came} == {one.id for one in sent}


@pytest.mark.usefixtures("hard_of_hearing")
@pytest.mark.parametrize("handled", [0, 1])
async def test_a_consumer_that_another_instance_made_again_is_noticed(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream, handled: int
) -> None:
    topic = new_topic()
    subscription = new_subscription(topic)
    await broker.declare([new_subscription(topic)])  # another consumer keeps what is handled
    sent = [letter(f"m{number}", topic) for number in range(3)]
    async with listening(harness, subscription) as receiver:
        assert list(await receiver.receive(1, within=DEAF)) == []
        for message in sent[:handled]:
            await broker.sender().send([message])
            await receiver.settle(await receive(receiver, 1), Outcome.ACCEPTED)
        for partition in range(PARTITIONS):
            durable = durable_of(subscription.consumer, partition)
            await jetstream.ask(f"CONSUMER.DELETE.{stream_of(topic)}.{durable}")
        await declare(jetstream, subscription, replicas=1, anew=True)
        assert list(await broker.sender().send(sent[handled:])) == [Confirmed()] * (3 - handled)

        came = await receive(receiver, 3 - handled)

        assert [one.message for one in came] == sent[handled:]
        await receiver.settle(came, Outcome.ACCEPTED)
        await let_redeliver_soon(jetstream, subscription, sent[0])
        await wait_until(nothing_pending(jetstream, subscription, sent[0], receiver), WITHIN)


@pytest.mark.usefixtures("hard_of_hearing")
async def test_an_acknowledgement_that_a_consumer_made_again_takes_for_its_own_costs_no_message(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream, nats: NatsConnection
) -> None:
    """The server knows an acknowledgement by the sequence in the stream, and cannot tell which stream was meant."""
    queue = new_queue()
    subscription = new_subscription(queue)
    before, now = (letter(name, queue) for name in ("before", "now"))
    async with listening(harness, subscription) as receiver:
        await broker.sender().send([before])
        out = await receive(receiver, 1)
        await jetstream.ask(f"STREAM.DELETE.{stream_of(queue)}")
        await declare(jetstream, subscription, replicas=1, anew=True)
        await broker.sender().send([now])
        client = (await nats.link()).client
        question = f"$JS.API.CONSUMER.MSG.NEXT.{where(now)[0]}.{durable(subscription, now)}"
        taken = await client.subscribe(client.new_inbox())
        await client.publish(question, b"", reply=taken.subject)
        assert (await taken.next_msg(timeout=WITHIN.total_seconds())).data == now.body
        await receiver.settle(out, Outcome.ACCEPTED)
        await wait_until(nothing_pending(jetstream, subscription, now), WITHIN, what="the wrong acknowledgement")

        assert [one.message for one in await receive(receiver, 1)] == [now]


async def test_what_is_confirmed_before_the_first_consumer_is_made_is_its(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream
) -> None:
    """A relay publishes as soon as there is a stream, and whoever made it may not have made its consumers yet."""
    topic = new_topic()
    await make_stream(jetstream, topic, replicas=1)
    message = letter("m1", topic)
    assert list(await broker.sender().send([message])) == [Confirmed()]

    async with listening(harness, new_subscription(topic)) as receiver:
        assert [one.message for one in await receive(receiver, 1)] == [message]
    async with listening(harness, new_subscription(topic)) as later:
        await assert_silent(later)


async def remove_consumer(jetstream: JetStream, subscription: Subscription, message: Message) -> None:
    """Remove the consumer of one partition: the one of ``message``."""
    await jetstream.ask(f"CONSUMER.DELETE.{where(message)[0]}.{durable(subscription, message)}")


async def test_a_consumer_that_is_gone_from_one_partition_while_its_service_stands_still_misses_nothing(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream
) -> None:
    """Its other partitions show that it has subscribed before."""
    topic = new_topic()
    subscription, other = new_subscription(topic), new_subscription(topic)
    await broker.declare([other, subscription])
    message = letter("m1", topic)
    assert list(await broker.sender().send([message])) == [Confirmed()]
    await remove_consumer(jetstream, subscription, message)

    async with listening(harness, subscription) as receiver:
        assert [one.message for one in await receive(receiver, 1)] == [message]


async def test_what_a_consumer_has_not_read_that_is_gone_from_one_partition_is_not_removed(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream
) -> None:
    topic = new_topic()
    quick, gone = new_subscription(topic), new_subscription(topic)
    await broker.declare([quick, gone])
    sent = [letter(f"m{number}", topic) for number in range(TRIM_AFTER)]
    await remove_consumer(jetstream, gone, sent[0])
    await broker.sender().send(sent)
    async with listening(harness, quick) as receiver:
        came = await receive_all_but_first(receiver, TRIM_AFTER)
        await receiver.settle(came[:1], Outcome.ACCEPTED)
        await wait_until(nothing_pending(jetstream, quick, sent[0]), WITHIN)

        await trim(jetstream, topic, partition_of(sent[0]))

        assert await count(jetstream, topic) == TRIM_AFTER
        await broker.declare([gone])
        async with listening(harness, gone) as slow:
            assert [one.message for one in await receive_all_but_first(slow, TRIM_AFTER)] == sent


async def test_a_stream_of_other_subjects_is_refused_with_what_to_do(broker: NatsBroker, jetstream: JetStream) -> None:
    topic = new_topic()
    await jetstream.ask(f"STREAM.CREATE.{stream_of(topic)}", name=stream_of(topic), subjects=[f"other.{topic}"])

    with pytest.raises(ConfigurationError, match="does not take"):
        await broker.declare([new_subscription(topic)])


async def test_a_subject_that_a_stream_of_somebody_else_takes_is_refused_with_what_to_do(
    broker: NatsBroker, jetstream: JetStream
) -> None:
    topic = new_topic()
    archive = stream_of(topic).replace("topic:", "archive-")
    await jetstream.ask(f"STREAM.CREATE.{archive}", name=archive, subjects=[subject_of(topic, ">")])

    with pytest.raises(ConfigurationError, match="another stream takes"):
        await broker.declare([new_subscription(topic)])

    await jetstream.ask(f"STREAM.DELETE.{archive}")


@pytest.mark.parametrize("channel", [new_topic, new_queue], ids=["topic", "queue"])
async def test_what_a_stream_of_somebody_else_stored_is_not_confirmed(
    broker: NatsBroker, harness: BrokerHarness, jetstream: JetStream, channel: Callable[[], str]
) -> None:
    destination = channel()
    sent = [letter("m1", destination)]
    archive = stream_of(destination).replace(":", "-archive-")
    await jetstream.ask(f"STREAM.CREATE.{archive}", name=archive, subjects=[subject_of(destination, ">")])

    (result,) = await broker.sender().send(sent)

    assert isinstance(result, NotReady)
    assert f"'{archive}' takes" in result.reason
    await jetstream.ask(f"STREAM.DELETE.{archive}")
    async with listening(harness, new_subscription(destination)) as receiver:
        assert list(await broker.sender().send(sent)) == [Confirmed()]
        assert [one.message for one in await receive(receiver, 1)] == sent


async def test_a_stream_that_drops_messages_is_told_of_and_found_by_the_doctor(
    broker: NatsBroker, jetstream: JetStream, nats_server: NatsServer, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    topic = new_topic()
    name, subject = stream_of(topic), subject_of(topic, "*")
    lossy = {"max_age": 3600 * NANOSECONDS, "storage": "memory"}
    await jetstream.ask(f"STREAM.CREATE.{name}", name=name, subjects=[subject], **lossy)

    await broker.declare([new_subscription(topic)])

    assert "has max_age=3600000000000; 0 keeps every message" in caplog.text
    box, _ = make_box(sqlite_url, broker=nats_server.url)
    await box.migrate()
    diagnosis = await doctor_of(box.store, DiagnosisLimits(), box.broker).examine()
    found = {(one.code, one.subject): one.severity for one in diagnosis.findings}
    assert found["nats-retention", name] == Severity.WARNING
    assert found["nats-storage", name] == Severity.ERROR
    await box.broker.close()
    await box.store.close()


@pytest.mark.parametrize("setting", [{"max_batch": 10}, {"max_expires": NANOSECONDS}], ids=["batch", "time"])
async def test_a_consumer_that_gives_nothing_any_more_is_told_of(
    broker: NatsBroker, jetstream: JetStream, caplog: pytest.LogCaptureFixture, setting: dict[str, int]
) -> None:
    subscription = new_subscription(new_topic())
    sent = letter("m1", subscription.channels[0])
    await broker.declare([subscription])
    stream, name = stream_of(sent.destination), durable(subscription, sent)
    consumer = await jetstream.consumer(stream, name)
    assert consumer is not None
    config = {**consumer.config, **setting}
    await jetstream.ask(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", stream_name=stream, config=config)
    receiver = broker.receiver(subscription, owner="o")

    async def is_told() -> bool:
        await receiver.receive(1, within=timedelta(milliseconds=50))
        return f"the consumer {name} gives nothing: 409 Exceeded MaxRequest" in caplog.text

    await wait_until(is_told, WITHIN)
    await receiver.close()
    await broker.declare([subscription])
    assert f"the consumer {name} of {stream} has {next(iter(setting))}=" in caplog.text


async def test_a_consumer_that_is_paused_is_told_of_once(
    broker: NatsBroker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only NATS 2.11 and newer pause one; here any server is heard to say so."""
    ask, asked = JetStream.consumer, Counter[str]()

    async def paused(self: JetStream, stream: str, name: str) -> Consumer | None:
        found = await ask(self, stream, name)
        asked[name] += 1
        return None if found is None else structs.replace(found, is_paused=True)

    subscription = new_subscription(new_topic())
    await broker.declare([subscription])
    monkeypatch.setattr(JetStream, "consumer", paused)
    monkeypatch.setattr(receiving, "COUNT_EVERY_S", 0.05)
    receiver, name = broker.receiver(subscription, owner="o"), durable_of(subscription.consumer, 0)

    async def is_asked_again_and_again() -> bool:
        await receiver.receive(1, within=timedelta(milliseconds=50))
        return asked[name] > 3

    await wait_until(is_asked_again_and_again, WITHIN)
    await receiver.close()
    assert caplog.text.count(f"the consumer {name} gives nothing: it is paused") == 1


async def test_events_of_others_are_understood_and_what_nobody_can_read_is_a_dead_letter(
    nats_server: NatsServer, nats: NatsConnection, sqlite_url: str
) -> None:
    box, happenings = make_box(sqlite_url, broker=nats_server.url)

    @box.on(ChargePayment, name="charge")
    async def charge(payment: ChargePayment, tx: AsyncConnection) -> None:
        await note(tx, payment.order_id)

    attributes = {"specversion": "1.0", "id": "e-1", "source": "/elsewhere", "type": "payment.charge"}
    event = {**attributes, "id": "e-2", "datacontenttype": "application/json", "data": {"order_id": "structured"}}
    async with box.running():
        await create_tables(box)
        client = (await nats.link()).client
        await client.jetstream().publish(
            subject_of("queue:payments", 3),
            b'{"order_id": "binary"}',
            headers={**{f"ce-{name}": value for name, value in attributes.items()}, "content-type": "application/json"},
        )
        await client.jetstream().publish(
            subject_of("queue:payments", 3),
            json.dumps(event).encode(),
            headers={"content-type": "application/cloudevents+json"},
        )
        await client.jetstream().publish(subject_of("queue:payments", 3), b"who knows")
        (dead,) = await happenings.until(MessageDead)
        await wait_until(has_noted(box, 2), WITHIN)
        bodies = [one.message.body for one in await box.dead_letters.list()]
        assert sorted(await noted(box)) == ["binary", "structured"]

    assert dead.message_id.startswith("queue:payments/")
    assert bodies == [b"who knows"]
    await JetStream(nats).ask("STREAM.DELETE.queue:payments")


async def test_messages_of_others_are_read_as_they_are_described(
    nats_server: NatsServer, nats: NatsConnection, sqlite_url: str
) -> None:
    """One without an id is a dead letter, never a message with an id that was made up."""
    legacy = ForeignMessages(id="header:x-id", type="=payment.charge", key="body:order_id")
    box, happenings = make_box(
        sqlite_url, broker=nats_server.url, settings=replace(SETTINGS, foreign={"queue:payments": legacy})
    )

    @box.on(ChargePayment, name="charge-foreign")
    async def charge(payment: ChargePayment, tx: AsyncConnection) -> None:
        await note(tx, payment.order_id)

    async with box.running():
        await create_tables(box)
        stream = (await nats.link()).client.jetstream()
        for headers in ({"X-Id": "7"}, {"X-Id": "7", "X-Try": "2"}, {}):
            await stream.publish(subject_of("queue:payments", 5), b'{"order_id": "o-1"}', headers=headers or None)
        (dead,) = await happenings.until(MessageDead)
        await happenings.until(DuplicateSuppressed)

        assert await noted(box) == ["o-1"]
    assert dead.message_id.startswith("queue:payments/")
    await JetStream(nats).ask("STREAM.DELETE.queue:payments")


async def test_nobody_hears_until_somebody_subscribes(broker: NatsBroker) -> None:
    topic = new_topic()

    early = await broker.sender().send([letter("m1", topic)])
    await broker.declare([Subscription(consumer="shop/late", channels=(topic,))])
    late = await broker.sender().send([letter("m1", topic)])

    assert [type(one) for one in early] == [NotReady]
    assert list(late) == [Confirmed()]


async def test_a_server_that_falls_silent_leaves_it_open_what_was_stored(
    private_nats_server: NatsServer, leases: PartitionLeases
) -> None:
    broker = nats_broker(private_nats_server.url, leases=leases)
    queue = new_queue()
    assert list(await broker.sender().send([letter("m1", queue)])) == [Confirmed()]

    private_nats_server.pause()
    results = await broker.sender().send([letter("m2", queue)])
    private_nats_server.resume()

    assert [type(one) for one in results] == [Unknown]
    await broker.close()


async def republish(box: Pillarbox) -> None:
    """Publish what is kept once more, and wait until the relay has it confirmed."""
    outbox = control_of(box.store).outbox

    async def is_settled() -> bool:
        return (await outbox.state()).pending == 0 and (await outbox.choose_kept(since=LONG_AGO)).count == 1

    await wait_until(is_settled, WITHIN)
    chosen = await outbox.choose_kept(since=LONG_AGO)
    assert [batch async for batch in outbox.republish(chosen, by="ann", reason="it lost them")] == [1]
    await wait_until(is_settled, WITHIN)


@pytest.fixture
async def refunds(
    nats_server: NatsServer, jetstream: JetStream, sqlite_url: str
) -> AsyncIterator[tuple[Pillarbox, Happenings]]:
    """A box that keeps what it publishes, and notes the refunds that it hears of."""
    keeping = replace(SETTINGS, relay=RelaySettings(keep=timedelta(days=1)))
    box, happenings = make_box(sqlite_url, broker=nats_server.url, settings=keeping)

    @box.on(RefundIssued, name="note-refund")
    async def handle(refund: RefundIssued, tx: AsyncConnection) -> None:
        await note(tx, refund.refund_id)

    yield box, happenings
    await jetstream.ask(f"STREAM.DELETE.{stream_of(REFUNDS)}")


async def issue_and_lose(box: Pillarbox, jetstream: JetStream) -> None:
    """Publish a refund that is handled, and remove it from its stream as a broker does that lost it."""
    await create_tables(box)
    await publish(box, RefundIssued("r-1"))
    await wait_until(has_noted(box, 1), WITHIN)
    await jetstream.ask(f"STREAM.PURGE.{stream_of(REFUNDS)}")


async def test_what_nats_took_within_its_duplicate_window_is_confirmed_and_not_stored_when_it_is_republished(
    refunds: tuple[Pillarbox, Happenings], jetstream: JetStream
) -> None:
    box, _ = refunds
    async with box.running():
        await issue_and_lose(box, jetstream)

        await republish(box)

        assert await count(jetstream, REFUNDS) == 0
        stream = await jetstream.stream(stream_of(REFUNDS))
    assert stream is not None
    assert stream["config"]["duplicate_window"] == 120 * NANOSECONDS


async def test_what_is_republished_after_the_duplicate_window_is_stored_and_suppressed_by_who_handled_it(
    refunds: tuple[Pillarbox, Happenings], jetstream: JetStream
) -> None:
    name = stream_of(REFUNDS)
    soon_over = {"duplicate_window": NANOSECONDS // 10}
    await jetstream.ask(f"STREAM.CREATE.{name}", name=name, subjects=[subject_of(REFUNDS, "*")], **soon_over)
    box, happenings = refunds
    async with box.running():
        await issue_and_lose(box, jetstream)

        async def is_stored() -> bool:
            await republish(box)
            return await count(jetstream, REFUNDS) > 0

        await wait_until(is_stored, WITHIN)
        await happenings.until(DuplicateSuppressed)

        assert await noted(box) == ["r-1"]
