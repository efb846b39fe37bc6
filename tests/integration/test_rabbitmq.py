"""RabbitMQ as the broker: what its adapter does beyond the contract, and what it lives through."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pamqp import commands

from pillarbox.brokers.partitions import PARTITIONS, PartitionLeases, partition_of
from pillarbox.brokers.rabbitmq import RabbitMqBroker, rabbitmq_broker
from pillarbox.brokers.rabbitmq.address import address_of
from pillarbox.brokers.rabbitmq.channel import Channel
from pillarbox.brokers.rabbitmq.layout import ARGUMENTS, queue_of
from pillarbox.brokers.rabbitmq.line import Line
from pillarbox.brokers.rabbitmq.receiver import PREFETCH
from pillarbox.channel import Confirmed, NotReady, Outcome, Refused, SendResult, Subscription, Unavailable, Unknown
from pillarbox.errors import BrokerUnavailableError, ConfigurationError
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
from tests.integration.conftest import LEASE
from tests.servers import RabbitMqServer
from tests.servers.proxy import Proxy
from tests.waiting import let_pass, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence
    from random import Random

    from pamqp.base import Frame

    from pillarbox.channel import Delivery
    from pillarbox.message import Message

WITHIN = timedelta(seconds=60)
DEAF = timedelta(0)
HEARTBEAT_S = 1


@pytest.fixture
async def broker(rabbitmq_server: RabbitMqServer, leases: PartitionLeases) -> AsyncIterator[RabbitMqBroker]:
    """An open broker on the server of the run."""
    broker = rabbitmq_broker(rabbitmq_server.url, leases=leases)
    await broker.open()
    yield broker
    await broker.close()


async def ask(server: RabbitMqServer, *questions: Frame) -> Sequence[Frame]:
    """Ask the server by a connection of the test's own."""
    line = Line(address_of(server.url), heartbeat_s=10)
    try:
        return await Channel(await line.wire()).ask(*questions)
    finally:
        await line.close()


def queue_for(message: Message, subscription: Subscription) -> str:
    """Return the queue where a message lies for the consumer of ``subscription``."""
    return queue_of(message.destination, subscription.consumer, partition_of(message))


def through(port: int, leases: PartitionLeases) -> RabbitMqBroker:
    """Return a broker behind a proxy that gives up a silent server, or is given up, after two seconds."""
    return rabbitmq_broker(f"amqp://127.0.0.1:{port}/?heartbeat={HEARTBEAT_S}", leases=leases)


def at_most(size: int) -> str:
    """Return what has the server take no larger messages; RabbitMQ 4 reads it elsewhere than those before."""
    return f"application:set_env(rabbit, max_message_size, {size}), persistent_term:put(max_message_size, {size})."


def messages(deliveries: Sequence[Delivery]) -> list[Message]:
    return [one.message for one in deliveries]


async def soon(sending: Coroutine[Any, Any, Sequence[SendResult]]) -> Sequence[SendResult]:
    """Return the results, or none if there are none within a second."""
    try:
        async with asyncio.timeout(1):
            return await sending
    except TimeoutError:
        return ()


async def until_trouble(receiver: Any) -> None:
    """Receive for a moment; that the broker is away is no news."""
    with suppress(BrokerUnavailableError):
        assert list(await receiver.receive(1, within=timedelta(milliseconds=100))) == []


async def until_received(receiver: Any, count: int) -> list[Delivery]:
    """Receive while the broker may be away for some of the time."""
    came: list[Delivery] = []

    async def enough() -> bool:
        try:
            came.extend(await receiver.receive(count, within=timedelta(milliseconds=100)))
        except BrokerUnavailableError:
            return False
        return len(came) >= count

    await wait_until(enough, WITHIN, what=f"{count} deliveries")
    return came


class TestSending:
    async def test_a_full_queue_is_not_the_messages_fault(
        self, private_rabbitmq_server: RabbitMqServer, leases: PartitionLeases
    ) -> None:
        broker, queue = rabbitmq_broker(private_rabbitmq_server.url, leases=leases), new_queue()
        assert list(await broker.sender().send([letter("m1", queue)])) == [Confirmed()]
        policy = {"pattern": f"^{queue}/", "apply-to": "queues", "definition": {"max-length": 5}}
        await asyncio.to_thread(private_rabbitmq_server.manage, "PUT", "policies/%2F/full", policy)
        sender = broker.sender()

        async def is_full() -> bool:
            (result,) = await sender.send([letter("m2", queue)])
            return isinstance(result, NotReady) and "rejected" in result.reason

        await wait_until(is_full, WITHIN, what="a full queue")
        assert list(await sender.send([letter("m3", new_queue())])) == [Confirmed()]
        receiver = broker.receiver(new_subscription(queue), owner="one")
        await receiver.settle(await receiver.receive(100, within=WITHIN), Outcome.ACCEPTED)

        async def has_room() -> bool:
            return list(await sender.send([letter("m3", queue)])) == [Confirmed()]

        await wait_until(has_room, WITHIN, what="room")
        await asyncio.to_thread(private_rabbitmq_server.manage, "DELETE", "policies/%2F/full")
        await receiver.close()
        await broker.close()

    async def test_a_queue_without_a_leader_holds_up_its_own_channel_alone(
        self, private_rabbitmq_server: RabbitMqServer, leases: PartitionLeases
    ) -> None:
        broker, sick, sound = rabbitmq_broker(private_rabbitmq_server.url, leases=leases), new_queue(), new_queue()
        sender, message = broker.sender(), letter("m1", sick)
        assert list(await sender.send([letter("m0", sick), letter("m0", sound)])) == [Confirmed()] * 2
        queue = f'rabbit_misc:r(<<"/">>, queue, <<"{sick}/{partition_of(message)}">>)'
        leader = f"{{ok, Queue}} = rabbit_amqqueue:lookup({queue}), Leader = amqqueue:get_pid(Queue), "
        await asyncio.to_thread(
            private_rabbitmq_server.control, "eval", f"{leader} ra:stop_server(quorum_queues, Leader)."
        )

        waits, goes = await sender.send([message, letter("m1", sound)])

        assert isinstance(waits, NotReady), waits
        assert goes == Confirmed()
        await asyncio.to_thread(
            private_rabbitmq_server.control, "eval", f"{leader} ra:restart_server(quorum_queues, Leader)."
        )

        async def is_well() -> bool:
            return list(await sender.send([message])) == [Confirmed()]

        await wait_until(is_well, WITHIN, what="a leader")
        await broker.close()

    async def test_a_server_without_memory_is_an_absent_one_and_acknowledgements_still_pass(
        self, private_rabbitmq_server: RabbitMqServer, leases: PartitionLeases
    ) -> None:
        server = private_rabbitmq_server
        broker, subscription = rabbitmq_broker(server.url, leases=leases), new_subscription(new_topic())
        await broker.declare([subscription])
        sender, receiver = broker.sender(), broker.receiver(subscription, owner="one")
        await sender.send([letter("m1", subscription.channels[0])])
        out = await receive(receiver, 1)
        await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "absolute", "1")

        async def is_refused() -> bool:
            results = await soon(sender.send([letter("m2", subscription.channels[0])]))
            return any(isinstance(one, Unavailable) for one in results)

        await wait_until(is_refused, WITHIN, what="an alarm that is heard")
        await receiver.settle(out, Outcome.ACCEPTED)
        await asyncio.to_thread(server.control, "set_vm_memory_high_watermark", "absolute", "1GiB")

        async def is_taken() -> bool:
            return list(await soon(sender.send([letter("m3", subscription.channels[0])]))) == [Confirmed()]

        await wait_until(is_taken, WITHIN, what="the end of the alarm")
        await receiver.close()
        await broker.close()

    async def test_a_message_that_is_too_large_for_the_server_is_refused_and_disturbs_no_other_for_long(
        self, private_rabbitmq_server: RabbitMqServer, leases: PartitionLeases
    ) -> None:
        server = private_rabbitmq_server
        before = (
            await asyncio.to_thread(server.control, "eval", "application:get_env(rabbit, max_message_size).")
        ).strip()
        await asyncio.to_thread(server.control, "eval", at_most(1000))
        broker, queue = rabbitmq_broker(server.url, leases=leases), new_queue()
        sender = broker.sender()
        sent = [letter("m1", queue, body=b"1"), letter("m2", queue, body=b"x" * 1001), letter("m3", queue, body=b"3")]

        results = await sender.send(sent)
        again = await sender.send([sent[0], sent[2]])

        assert isinstance(results[1], Refused), results
        assert "the server takes 1000" in results[1].reason
        assert all(isinstance(one, Confirmed | Unknown) for one in (results[0], results[2])), results
        assert list(again) == [Confirmed()] * 2
        size = before.removeprefix("{ok,").removesuffix("}")
        await asyncio.to_thread(server.control, "eval", at_most(int(size)))
        await broker.close()

    async def test_headers_that_do_not_fit_into_a_frame_are_refused(self, broker: RabbitMqBroker) -> None:
        queue = new_queue()

        results = await broker.sender().send([letter("m1", queue, key="k" * 140_000), letter("m2", queue)])

        assert isinstance(results[0], Refused), results[0]
        assert results[1] == Confirmed()

    async def test_an_absent_server_stored_nothing(
        self, private_rabbitmq_server: RabbitMqServer, leases: PartitionLeases
    ) -> None:
        broker = rabbitmq_broker(private_rabbitmq_server.url, leases=leases)
        private_rabbitmq_server.kill()

        with pytest.raises(BrokerUnavailableError, match="broker rabbitmq is unavailable"):
            await broker.open()
        assert [type(one) for one in await broker.sender().send([letter("m1", new_queue())])] == [Unavailable]

    async def test_an_exchange_that_somebody_deleted_is_made_again(
        self, broker: RabbitMqBroker, rabbitmq_server: RabbitMqServer
    ) -> None:
        queue = new_queue()
        sender = broker.sender()
        await sender.send([letter("m1", queue)])
        await ask(rabbitmq_server, commands.Exchange.Delete(exchange=queue))

        first = (await sender.send([letter("m2", queue)]))[0]

        assert isinstance(first, Unknown), first
        assert list(await sender.send([letter("m2", queue)])) == [Confirmed()]

    async def test_queues_that_somebody_deleted_are_made_again(
        self, broker: RabbitMqBroker, rabbitmq_server: RabbitMqServer
    ) -> None:
        """What went to none of them was returned, and not lost."""
        queue, message = new_queue(), letter("m1", new_queue())
        sender = broker.sender()
        message = letter("m2", queue)
        await sender.send([letter("m1", queue)])
        await ask(rabbitmq_server, *(commands.Queue.Delete(queue=f"{queue}/{number}") for number in range(PARTITIONS)))

        first = (await sender.send([message]))[0]

        assert isinstance(first, NotReady), first
        assert list(await sender.send([message])) == [Confirmed()]

    async def test_what_was_sent_and_not_confirmed_is_unknown_and_may_be_there(
        self, private_rabbitmq_server: RabbitMqServer, leases: PartitionLeases
    ) -> None:
        """The server has it and its word is lost; sent again it is there twice, before what follows."""
        queue = new_queue()
        with Proxy(int(private_rabbitmq_server.port)) as proxy:
            broker = through(proxy.port, leases)
            sender = broker.sender()
            sent = [letter(f"m{number}", queue) for number in range(3)]
            assert list(await sender.send(sent[:1])) == [Confirmed()]
            private_rabbitmq_server.pause()  # what is sent now reaches its host, and is read later
            sending = asyncio.ensure_future(sender.send(sent[1:2]))
            await asyncio.to_thread(let_pass, timedelta(milliseconds=300))
            proxy.cut()
            (lost,) = await sending
            private_rabbitmq_server.resume()

            async def is_back() -> bool:
                return list(await sender.send(sent[1:2])) == [Confirmed()]

            await wait_until(is_back, WITHIN, what="a confirm")
            assert list(await sender.send(sent[2:])) == [Confirmed()]
            assert isinstance(lost, Unknown), lost
            subscription = new_subscription(queue)
            receiver = broker.receiver(subscription, owner="one")
            came = await until_received(receiver, 3)
            ids = list(dict.fromkeys(one.message.id for one in came))
            assert ids == [one.id for one in sent][: len(ids)]
            await receiver.close()
            await broker.close()


class TestReceiving:
    async def test_whoever_takes_over_finds_what_was_not_acknowledged_in_order(
        self, broker: RabbitMqBroker, harness: BrokerHarness
    ) -> None:
        """Also where some in between were; and before what came later."""
        topic = new_topic()
        subscription = new_subscription(topic)
        await broker.declare([subscription])
        first = broker.receiver(subscription, owner="first")
        sent = [letter(f"m{number}", topic) for number in range(8)]
        await broker.sender().send(sent[:6])
        out = await receive(first, 5)
        await first.settle([out[0], out[2], out[3]], Outcome.ACCEPTED)
        await first.close()
        await broker.sender().send(sent[6:])

        async with listening(harness, subscription) as successor:
            came = await receive(successor, 5)

        assert messages(came) == [sent[1], sent[4], *sent[5:]]

    async def test_a_partition_has_no_more_on_the_way_than_the_prefetch(
        self, broker: RabbitMqBroker, harness: BrokerHarness
    ) -> None:
        """The same for every instance, and as many follow as were acknowledged."""
        topic = new_topic()
        async with listening(harness, new_subscription(topic)) as receiver:
            await broker.sender().send([letter(f"m{number}", topic) for number in range(PREFETCH + 20)])

            came = await receive(receiver, PREFETCH)

            await assert_silent(receiver)
            await receiver.settle(came[:7], Outcome.ACCEPTED)
            await receive(receiver, 7)
            await assert_silent(receiver)

    async def test_a_partition_that_changes_hands_again_and_again_keeps_its_order(
        self, broker: RabbitMqBroker, harness: BrokerHarness, rng: Random
    ) -> None:
        """An acknowledgement right before the end may be lost: its message comes again, in its place."""
        topic = new_topic()
        subscription = new_subscription(topic)
        await broker.declare([subscription])
        sent = [letter(f"m{number}", topic) for number in range(PREFETCH * 3)]
        await broker.sender().send(sent)
        accepted: set[str] = set()
        for _ in range(8):
            async with listening(harness, subscription) as owner:
                left = len(sent) - len(accepted)
                came = await receive(owner, min(rng.randint(1, PREFETCH), left))
                fresh = [one for one in messages(came) if one.id not in accepted]
                assert fresh == [one for one in sent if one.id not in accepted][: len(fresh)]
                assert messages(came) == sorted(messages(came), key=sent.index)
                done = [one for one in came if rng.random() < 0.5]
                await owner.settle(done, Outcome.ACCEPTED)
                accepted |= {one.message.id for one in done}

    async def test_an_owner_that_was_paused_is_fenced_and_its_successor_gets_all_in_order(
        self, broker: RabbitMqBroker, harness: BrokerHarness, rabbitmq_server: RabbitMqServer, leases: PartitionLeases
    ) -> None:
        topic = new_topic()
        subscription = new_subscription(topic)
        sent = [letter(f"m{number}", topic) for number in range(5)]
        with Proxy(int(rabbitmq_server.port)) as proxy:
            behind = through(proxy.port, leases)
            await behind.declare([subscription])
            paused = behind.receiver(subscription, owner="paused")
            await broker.sender().send(sent[:3])
            out = await receive(paused, 3)
            proxy.swallow()  # nothing is heard of it any more: its lease ends, then the server gives it up

            async with listening(harness, subscription) as successor:
                await broker.sender().send(sent[3:])
                came = await receive(successor, 5)
                proxy.forward()
                await paused.settle(out, Outcome.ACCEPTED)  # it wakes up, and what it says is stale

                await assert_silent(successor)
                await successor.settle(came, Outcome.RETURNED)
                assert messages(await receive(successor, 5)) == sent

            assert messages(came) == sent
            await paused.close()
            await behind.close()

    async def test_a_connection_that_is_cut_brings_again_what_was_not_acknowledged(
        self, broker: RabbitMqBroker, rabbitmq_server: RabbitMqServer, leases: PartitionLeases
    ) -> None:
        """But nothing that is still in hand: that comes again once it is settled."""
        topic = new_topic()
        subscription = new_subscription(topic)
        sent = [letter(f"m{number}", topic) for number in range(4)]
        with Proxy(int(rabbitmq_server.port)) as proxy:
            behind = through(proxy.port, leases)
            await behind.declare([subscription])
            receiver = behind.receiver(subscription, owner="one")
            await broker.sender().send(sent)
            out = await receive(receiver, 4)
            proxy.cut()

            assert list(await receiver.receive(10, within=LEASE)) == []
            await receiver.settle(out, Outcome.ACCEPTED)  # too late: the server has them back

            came = await until_received(receiver, 4)
            assert messages(came) == sent
            await receiver.close()
            await behind.close()

    async def test_a_silent_server_is_given_up(
        self, broker: RabbitMqBroker, rabbitmq_server: RabbitMqServer, leases: PartitionLeases
    ) -> None:
        topic = new_topic()
        subscription = new_subscription(topic)
        with Proxy(int(rabbitmq_server.port)) as proxy:
            behind = through(proxy.port, leases)
            await behind.declare([subscription])
            receiver, sender = behind.receiver(subscription, owner="one"), behind.sender()
            await sender.send([letter("m", topic)])
            await receiver.settle(await receive(receiver, 1), Outcome.ACCEPTED)
            proxy.swallow()

            (lost,) = await sender.send([letter("m0", topic)])
            proxy.forward()
            await broker.sender().send([letter("m1", topic)])

            assert isinstance(lost, Unknown | Unavailable), lost
            came = await until_received(receiver, 1)
            if not came[-1].message.id.startswith("m1"):  # the acknowledgement of the one before was swallowed, too
                await receiver.settle(came, Outcome.ACCEPTED)
                came = await until_received(receiver, 1)
            assert came[-1].message.id.startswith("m1")
            await receiver.close()
            await behind.close()

    async def test_a_queue_that_somebody_deleted_is_made_again(
        self,
        broker: RabbitMqBroker,
        harness: BrokerHarness,
        rabbitmq_server: RabbitMqServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        topic = new_topic()
        subscription = new_subscription(topic)
        async with listening(harness, subscription) as receiver:
            assert list(await receiver.receive(1, within=DEAF)) == []
            message = letter("m1", topic)
            await ask(rabbitmq_server, commands.Queue.Delete(queue=queue_for(message, subscription)))

            async def is_made_again() -> bool:
                await until_trouble(receiver)
                return list(await broker.sender().send([message])) == [Confirmed()]

            await wait_until(is_made_again, WITHIN, what="the queue")
            assert messages(await until_received(receiver, 1)) == [message]
            assert caplog.text.count(f"the server ended the reading of {queue_for(message, subscription)}") == 1

    async def test_a_handler_slower_than_the_server_bears_gets_its_message_again_when_it_is_done(
        self, private_rabbitmq_server: RabbitMqServer, leases: PartitionLeases, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The server closes the channel, or from 4.3 on ends its reading; the message is not handed out meanwhile."""
        server = private_rabbitmq_server
        await asyncio.to_thread(server.control, "eval", "application:set_env(rabbit, consumer_timeout, 1000).")
        await asyncio.to_thread(server.control, "eval", "application:set_env(rabbit, channel_tick_interval, 500).")
        broker, subscription = rabbitmq_broker(server.url, leases=leases), new_subscription(new_topic())
        await broker.declare([subscription])
        receiver, message = broker.receiver(subscription, owner="one"), letter("m1", subscription.channels[0])
        await broker.sender().send([message])
        out = await receive(receiver, 1)
        queue = commands.Queue.Declare(queue=queue_for(message, subscription), passive=True)

        async def is_taken_back() -> bool:
            (found,) = await ask(server, queue)
            return isinstance(found, commands.Queue.DeclareOk) and found.message_count == 1

        await wait_until(is_taken_back, WITHIN, what="the message, in its queue again")
        await asyncio.to_thread(server.control, "eval", "application:set_env(rabbit, consumer_timeout, 1800000).")
        with suppress(BrokerUnavailableError):
            assert list(await receiver.receive(10, within=DEAF)) == []
        assert "timed out" in caplog.text or "took longer than consumer_timeout" in caplog.text
        assert list(await receiver.receive(10, within=LEASE)) == []
        await receiver.settle(out, Outcome.ACCEPTED)

        again = await receive(receiver, 1)
        assert messages(again) == [message]
        await receiver.settle(again, Outcome.ACCEPTED)
        await assert_silent(receiver)
        await receiver.close()
        await broker.close()


class TestDeclaring:
    async def test_a_queue_of_another_kind_is_an_error_that_names_it(
        self, broker: RabbitMqBroker, rabbitmq_server: RabbitMqServer
    ) -> None:
        subscription = new_subscription(new_topic())
        queue = queue_of(subscription.channels[0], subscription.consumer, 3)
        await ask(rabbitmq_server, commands.Queue.Declare(queue=queue, durable=True))

        with pytest.raises(ConfigurationError, match=rf"inequivalent arg 'x-\S+' for queue '{queue}'"):
            await broker.declare([subscription])

    async def test_an_exchange_of_another_kind_is_not_ready(
        self, broker: RabbitMqBroker, rabbitmq_server: RabbitMqServer
    ) -> None:
        topic = new_topic()
        await ask(rabbitmq_server, commands.Exchange.Declare(exchange=topic, exchange_type="fanout", durable=True))

        result, other = await broker.sender().send([letter("m1", topic), letter("m2", new_queue())])

        assert isinstance(result, NotReady), result
        assert "inequivalent arg 'type'" in result.reason
        assert other == Confirmed()

    async def test_declaring_again_keeps_what_others_bound(
        self, broker: RabbitMqBroker, harness: BrokerHarness, rabbitmq_server: RabbitMqServer
    ) -> None:
        topic = new_topic()
        audit = commands.Queue.Declare(queue=f"audit-{topic}", durable=True, arguments=dict(ARGUMENTS))
        bound = [
            commands.Queue.Bind(queue=audit.queue, exchange=topic, routing_key=str(number)) for number in range(16)
        ]
        await broker.declare([new_subscription(topic)])
        await ask(rabbitmq_server, audit, *bound)

        async with listening(harness, new_subscription(topic)) as receiver:
            await broker.sender().send([letter("m1", topic)])
            await receive(receiver, 1)

        (passive,) = await ask(rabbitmq_server, commands.Queue.Declare(queue=audit.queue, passive=True))
        assert passive.message_count == 1

    async def test_a_name_that_rabbitmq_does_not_take_is_refused(self, broker: RabbitMqBroker) -> None:
        subscription = Subscription(consumer=f"shop/{'c' * 200}", channels=(f"topic:{'t' * 100}",))

        with pytest.raises(ConfigurationError, match="more than 255 bytes"):
            await broker.declare([subscription])
