"""Redis as the broker: what its adapter does beyond the contract, and what it lives through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.app.diagnosing import doctor_of
from pillarbox.brokers.partitions import PARTITIONS, PartitionLeases, partition_of
from pillarbox.brokers.redis import RedisBroker, redis_broker
from pillarbox.brokers.redis.connection import RedisConnection
from pillarbox.brokers.redis.layout import groups_of, streams_of
from pillarbox.brokers.redis.receiver import MEMBER, TRIM_AFTER
from pillarbox.channel import Confirmed, NotReady, NotSent, Outcome, Subscription, Unavailable, Unknown
from pillarbox.control.diagnosis import DiagnosisLimits, Severity
from pillarbox.errors import BrokerUnavailableError, ConfigurationError
from pillarbox.observe import MessageDead
from pillarbox.testing.contracts.broker_harness import (
    BrokerHarness,
    letter,
    listening,
    new_queue,
    new_subscription,
    new_topic,
    receive,
)
from tests.conftest import started
from tests.integration.boxes import ChargePayment, make_box, note
from tests.integration.conftest import LEASE
from tests.integration.shop import receive_all_but_first
from tests.servers import RedisServer
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from pillarbox.message import Message

WITHIN = timedelta(seconds=60)
DEAF = timedelta(0)


@pytest.fixture
async def broker(redis_server: RedisServer, leases: PartitionLeases) -> AsyncIterator[RedisBroker]:
    """An open broker on the server of the run."""
    broker = redis_broker(redis_server.url, leases=leases)
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[RedisConnection]:
    """A connection of the test's own."""
    connection = RedisConnection(redis_server.url)
    yield connection
    await connection.close()


async def count_entries(redis: RedisConnection, channel: str) -> int:
    """Count what lies in all streams of a channel."""
    return sum(await redis.execute_all([("XLEN", stream) for stream in streams_of(channel)]))


def spread(topic: str, count: int) -> list[Message]:
    """Return messages of as many partitions as there are messages."""
    found: dict[int, Message] = {}
    for number in range(1000):
        message = letter(f"m{number}", topic, key=f"k{number}")
        found.setdefault(partition_of(message), message)
        if len(found) == count:
            return list(found.values())
    raise AssertionError("keys do not spread")


async def test_nothing_behind_a_failure_is_stored(
    broker: RedisBroker, harness: BrokerHarness, redis: RedisConnection
) -> None:
    topic = new_topic()
    async with listening(harness, new_subscription(topic)) as receiver:
        sent = spread(topic, 4)
        broken = streams_of(topic)[partition_of(sent[2])]
        await redis.execute("DEL", broken)
        await redis.execute("SET", broken, "no stream")

        results = await broker.sender().send(sent)

        assert list(results[:2]) == [Confirmed()] * 2
        assert isinstance(results[2], Unavailable)
        assert results[3] == NotSent()
        await redis.execute("DEL", broken)
        await broker.declare([new_subscription(topic)])
        assert await count_entries(redis, topic) == 2
        assert receiver is not None


async def test_a_server_that_lost_its_scripts_is_told_them_again(broker: RedisBroker, redis: RedisConnection) -> None:
    queue = new_queue()
    await broker.sender().send([letter("m1", queue)])
    await redis.execute("SCRIPT", "FLUSH")

    assert list(await broker.sender().send([letter("m2", queue)])) == [Confirmed()]
    assert await count_entries(redis, queue) == 2


async def test_a_server_without_room_is_not_the_messages_fault(
    private_redis_server: RedisServer, leases: PartitionLeases
) -> None:
    broker = redis_broker(private_redis_server.url, leases=leases)
    queue = new_queue()
    assert list(await broker.sender().send([letter("m1", queue)])) == [Confirmed()]
    private_redis_server.ask("CONFIG", "SET", "maxmemory", "1")

    full = await broker.sender().send([letter("m2", queue), letter("m3", queue)])
    private_redis_server.ask("CONFIG", "SET", "maxmemory", "0")

    assert isinstance(full[0], Unavailable)
    assert full[1] == NotSent()
    assert list(await broker.sender().send([letter("m2", queue)])) == [Confirmed()]
    await broker.close()


async def test_a_server_that_takes_nothing_after_a_failover_is_left_for_whoever_has_its_address_now(
    private_redis_server: RedisServer, leases: PartitionLeases
) -> None:
    subscription = new_subscription(new_queue())
    sent = [letter("m1", subscription.channels[0])]
    with Proxy(int(private_redis_server.port)) as proxy:
        broker = redis_broker(f"redis://127.0.0.1:{proxy.port}/0", leases=leases)
        await broker.declare([subscription])
        receiver = broker.receiver(subscription, owner=uuid4().hex)
        assert list(await receiver.receive(1, within=DEAF)) == []
        private_redis_server.ask("REPLICAOF", "127.0.0.1", "1")
        private_redis_server.ask("CONFIG", "SET", "replica-serve-stale-data", "yes")

        (refused,) = await broker.sender().send(sent)
        connections = [proxy.accepted]
        await broker.sender().send(sent)
        connections.append(proxy.accepted)
        with pytest.raises(BrokerUnavailableError):
            await receiver.receive(1, within=DEAF)
        with pytest.raises(BrokerUnavailableError):
            await receiver.receive(1, within=DEAF)
        connections.append(proxy.accepted)

        assert isinstance(refused, Unavailable)
        assert connections == sorted(set(connections))
        private_redis_server.ask("REPLICAOF", "NO", "ONE")
        assert list(await broker.sender().send(sent)) == [Confirmed()]
        await receiver.close()
        await broker.close()


async def test_an_absent_server_is_an_error_that_waiting_may_help(
    private_redis_server: RedisServer, leases: PartitionLeases
) -> None:
    broker = redis_broker(private_redis_server.url, leases=leases)
    private_redis_server.stop()

    with pytest.raises(BrokerUnavailableError, match="broker redis is unavailable"):
        await broker.open()
    assert [type(result) for result in await broker.sender().send([letter("m1", new_queue())])] == [Unknown]
    private_redis_server.start()
    await broker.open()
    await broker.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis+what://x",
        "redis://x?nonsense=1",
        "redis://x?ssl_cert_reqs=none",
        "rediss://x?ssl_cert_reqs=nonsense",
        "redis://x/0?db=y",
    ],
)
def test_what_is_no_url_is_refused(leases: PartitionLeases, url: str) -> None:
    with pytest.raises(ConfigurationError, match="no URL of a Redis"):
        redis_broker(url, leases=leases)


@pytest.mark.parametrize("option", ["protocol=3", "decode_responses=true", "socket_timeout=0.01"])
async def test_options_change_nothing_about_how_answers_are_read(
    redis_server: RedisServer, leases: PartitionLeases, option: str
) -> None:
    subscription = new_subscription(new_queue())
    sent = [letter("m1", subscription.channels[0])]
    broker = redis_broker(f"{redis_server.url}?{option}", leases=leases)
    await broker.declare([subscription])
    receiver = broker.receiver(subscription, owner=uuid4().hex)
    assert list(await receiver.receive(1, within=timedelta(milliseconds=50))) == []

    await broker.sender().send(sent)

    assert [one.message for one in await receive(receiver, 1)] == sent
    await receiver.close()
    await broker.close()


async def test_a_node_of_a_cluster_is_refused(pytestconfig: pytest.Config, leases: PartitionLeases) -> None:
    server = RedisServer(settings={"cluster-enabled": "yes"})
    with started(server, pytestconfig):
        broker = redis_broker(server.url, leases=leases)

        with pytest.raises(ConfigurationError, match="node of a Redis Cluster"):
            await broker.open()

        await broker.close()


async def test_a_reply_that_was_swallowed_costs_nothing(
    redis_server: RedisServer, leases: PartitionLeases, harness: BrokerHarness
) -> None:
    """Entries that were delivered to nobody are pending, and read before what follows."""
    topic = new_topic()
    subscription = new_subscription(topic)
    with Proxy(int(redis_server.port)) as proxy:
        behind = redis_broker(f"redis://127.0.0.1:{proxy.port}/0", leases=leases)
        await behind.declare([subscription])
        receiver = behind.receiver(subscription, owner=uuid4().hex)
        assert list(await receiver.receive(10, within=DEAF)) == []
        receiving = asyncio.ensure_future(receiver.receive(10, within=WITHIN))  # to be cut in the middle
        proxy.swallow()
        first = [letter(f"m{number}", topic) for number in range(3)]
        await harness.broker.sender().send(first)
        proxy.forward()
        with pytest.raises(BrokerUnavailableError):
            await receiving
        later = [letter("m4", topic)]
        await harness.broker.sender().send(later)

        came = await receive(receiver, 4)

        assert [one.message for one in came] == [*first, *later]
        await receiver.close()
        await behind.close()


async def test_whoever_takes_over_finds_what_was_not_acknowledged_first(
    broker: RedisBroker, harness: BrokerHarness
) -> None:
    topic = new_topic()
    subscription = new_subscription(topic)
    await broker.declare([subscription])
    first = broker.receiver(subscription, owner="first")
    sent = [letter(f"m{number}", topic) for number in range(5)]
    await broker.sender().send(sent[:3])
    out = await receive(first, 3)
    await first.settle(out[:1], Outcome.ACCEPTED)
    await broker.sender().send(sent[3:])

    async with listening(harness, subscription) as successor:  # the first one falls silent; its lease ends
        came = await receive(successor, 4)

    assert [one.message for one in came] == sent[1:]
    await first.close()


async def test_a_stale_acknowledgement_is_taken_since_the_effect_is_there(broker: RedisBroker) -> None:
    """Only a consumer that has committed acknowledges, whoever owns the partition by then."""
    subscription = new_subscription(new_topic())
    await broker.declare([subscription])
    first = broker.receiver(subscription, owner="first")
    await broker.sender().send([letter("m1", subscription.channels[0])])
    out = await receive(first, 1)
    await first.close()

    await first.settle(out, Outcome.ACCEPTED)

    second = broker.receiver(subscription, owner="second")
    assert list(await second.receive(10, within=timedelta(milliseconds=200))) == []
    await second.close()


async def test_what_a_former_owner_took_after_its_lease_had_ended_is_found(
    broker: RedisBroker, harness: BrokerHarness, redis: RedisConnection
) -> None:
    """It was paused right before it read, and never handled what it got."""
    topic = new_topic()
    subscription = new_subscription(topic)
    async with listening(harness, subscription) as receiver:
        assert list(await receiver.receive(1, within=DEAF)) == []
        message = letter("m1", topic)
        stream = streams_of(topic)[partition_of(message)]
        await broker.sender().send([message])
        group = subscription.consumer
        taken = await redis.execute("XREADGROUP", "GROUP", group, MEMBER, "STREAMS", stream, ">")
        assert len(taken[0][1]) == 1

        assert [one.message for one in await receive(receiver, 1)] == [message]


async def test_what_a_former_owner_took_after_its_lease_had_ended_comes_before_what_follows(
    broker: RedisBroker, harness: BrokerHarness, redis: RedisConnection
) -> None:
    """It is found at once, by what follows; not only when what is pending is counted the next time."""
    topic = new_topic()
    subscription = new_subscription(topic)
    sent = [letter(f"m{number}", topic) for number in range(3)]
    stream = streams_of(topic)[partition_of(sent[0])]
    async with listening(harness, subscription) as receiver:
        assert list(await receiver.receive(1, within=DEAF)) == []
        await broker.sender().send(sent[:1])
        out = await receive(receiver, 1)
        await broker.sender().send(sent[1:2])
        await redis.execute("XREADGROUP", "GROUP", subscription.consumer, MEMBER, "STREAMS", stream, ">")
        await broker.sender().send(sent[2:])

        came = await receive(receiver, 2)

        assert [one.message for one in [*out, *came]] == sent


async def test_what_somebody_removed_while_it_was_pending_is_told_once(
    broker: RedisBroker, redis: RedisConnection, caplog: pytest.LogCaptureFixture
) -> None:
    subscription = new_subscription(new_topic())
    await broker.declare([subscription])
    first = broker.receiver(subscription, owner="first")
    message = letter("m1", subscription.channels[0])
    await broker.sender().send([message])
    await receive(first, 1)
    await first.close()
    stream = streams_of(message.destination)[partition_of(message)]
    await redis.execute("XTRIM", stream, "MAXLEN", 0)

    second = broker.receiver(subscription, owner="second")
    assert list(await second.receive(10, within=LEASE * 2)) == []
    await second.close()

    assert [record.levelname for record in caplog.records if "was removed before" in record.message] == ["ERROR"]
    assert (await redis.execute("XPENDING", stream, subscription.consumer))[0] == 0


async def test_entries_are_removed_once_the_slowest_group_has_them_behind_it(
    broker: RedisBroker, harness: BrokerHarness, redis: RedisConnection
) -> None:
    topic = new_topic()
    quick, slow = new_subscription(topic), new_subscription(topic)
    await broker.declare([quick, slow])
    sent = [letter(f"m{number}", topic) for number in range(TRIM_AFTER)]
    await broker.sender().send(sent)
    async with listening(harness, quick) as receiver:
        came = await receive_all_but_first(receiver, TRIM_AFTER)
        await receiver.settle(came[:1], Outcome.ACCEPTED)
        assert await count_entries(redis, topic) == TRIM_AFTER, "the slow one has read nothing"

    async with listening(harness, slow) as receiver:
        came = await receive_all_but_first(receiver, TRIM_AFTER)
        assert [one.message for one in came] == sent, "and misses nothing"
        assert await count_entries(redis, topic) == TRIM_AFTER, "the first is not acknowledged"
        await receiver.settle(came[:1], Outcome.ACCEPTED)

    assert await count_entries(redis, topic) <= 1


async def test_a_group_of_somebody_else_does_not_stand_for_one_that_is_gone(
    broker: RedisBroker, harness: BrokerHarness, redis: RedisConnection
) -> None:
    """Made again, the one that is gone begins with all that is there, so nothing is removed that it has not read."""
    topic = new_topic()
    quick, gone = new_subscription(topic), new_subscription(topic)
    await broker.declare([quick, gone])
    sent = [letter(f"m{number}", topic) for number in range(TRIM_AFTER)]
    stream = streams_of(topic)[partition_of(sent[0])]
    await redis.execute("XGROUP", "DESTROY", stream, gone.consumer)
    await redis.execute("XGROUP", "CREATE", stream, "who-knows", "$")
    await broker.sender().send(sent)
    await redis.execute("XGROUP", "SETID", stream, "who-knows", "$")
    async with listening(harness, quick) as receiver:
        came = await receive_all_but_first(receiver, TRIM_AFTER)
        await receiver.settle(came[:1], Outcome.ACCEPTED)

    assert await count_entries(redis, topic) == TRIM_AFTER


async def test_groups_that_are_gone_begin_again_with_all_that_is_there(
    broker: RedisBroker, harness: BrokerHarness, redis: RedisConnection
) -> None:
    queue = new_queue()
    subscription = new_subscription(queue)
    async with listening(harness, subscription) as receiver:
        assert list(await receiver.receive(1, within=DEAF)) == []
        await redis.execute("DEL", groups_of(queue), *streams_of(queue))  # as a flush does, or a failover to nothing
        await broker.sender().send([letter("m1", queue)])

        with pytest.raises(BrokerUnavailableError, match="NOGROUP"):
            await receive(receiver, 1)

        assert len(await receive(receiver, 1)) == 1


async def test_what_somebody_else_put_into_a_queue_is_a_dead_letter(
    redis_server: RedisServer, redis: RedisConnection, sqlite_url: str
) -> None:
    box, happenings = make_box(sqlite_url, broker=redis_server.url)

    @box.on(ChargePayment, name="charge")
    async def charge(payment: ChargePayment, tx: AsyncConnection) -> None:
        await note(tx, payment.order_id)

    async with box.running():
        await redis.execute("XADD", streams_of("queue:payments")[0], "*", "who", "knows")
        (dead,) = await happenings.until(MessageDead)
        letters = [one async for one in _letters(box)]

    assert dead.message_id.startswith("pillarbox:{queue:payments}:0/")
    assert letters == [b"who\nknows"]
    await redis.execute("DEL", groups_of("queue:payments"), *streams_of("queue:payments"))


async def _letters(box: Any) -> AsyncIterator[bytes]:
    for one in await box.dead_letters.list():
        yield one.message.body


async def test_the_doctor_looks_at_the_broker_of_a_box(private_redis_server: RedisServer, sqlite_url: str) -> None:
    box, _ = make_box(sqlite_url, broker=private_redis_server.url)
    await box.migrate()
    private_redis_server.ask("CONFIG", "SET", "appendfsync", "everysec")

    diagnosis = await doctor_of(box.store, DiagnosisLimits(), box.broker).examine()

    found = {one.code: one.severity for one in diagnosis.findings}
    assert found["append-only"] == found["eviction"] == found["replica"] == Severity.OK
    assert found["append-fsync"] == Severity.NOTICE
    await box.broker.close()
    await box.store.close()


async def test_nobody_hears_until_somebody_subscribes(broker: RedisBroker) -> None:
    topic = new_topic()

    early = await broker.sender().send([letter("m1", topic)])
    await broker.declare([Subscription(consumer="shop/late", channels=(topic,))])
    late = await broker.sender().send([letter("m1", topic)])

    assert [type(one) for one in early] == [NotReady]
    assert list(late) == [Confirmed()]
    assert len(streams_of(topic)) == PARTITIONS
