"""Boxes on a RabbitMQ: what they make of messages of others, and what the doctor sees."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pamqp import commands
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.app.diagnosing import doctor_of
from pillarbox.brokers.rabbitmq.address import address_of
from pillarbox.brokers.rabbitmq.channel import Channel
from pillarbox.brokers.rabbitmq.confirms import NOT_SENT, Batch
from pillarbox.brokers.rabbitmq.frames import Properties, pack_properties
from pillarbox.brokers.rabbitmq.line import Line
from pillarbox.channel import Confirmed
from pillarbox.control.diagnosis import DiagnosisLimits, Severity
from pillarbox.errors import TransientError
from pillarbox.observe import MessageDead, MessageHandled, MessageHeld
from pillarbox.testing.contracts.broker_harness import letter
from tests.integration.boxes import ChargePayment, create_tables, has_noted, make_box, note, noted, publish
from tests.servers import RabbitMqServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pillarbox.deadletter import Burial
    from pillarbox.deadletter.groups import Arrival
    from pillarbox.transaction import Program

WITHIN = timedelta(seconds=60)


@pytest.fixture
async def clean(rabbitmq_server: RabbitMqServer) -> AsyncIterator[Channel]:
    """A channel that confirms, on a server without the channels that the boxes use."""
    line = Line(address_of(rabbitmq_server.url), heartbeat_s=10)
    channel = Channel(await line.wire())
    await channel.ask(commands.Confirm.Select())
    await _remove(channel)
    yield channel
    await _remove(channel)
    await line.close()


async def _remove(channel: Channel) -> None:
    queues = [f"queue:payments/{number}" for number in (*range(16), "consumer", "dead", "kept")]
    await channel.ask(*(commands.Queue.Delete(queue=queue) for queue in queues))
    await channel.ask(commands.Exchange.Delete(exchange="queue:payments"))


@pytest.mark.parametrize(
    ("content_type", "headers", "body", "is_dead"),
    [
        ("application/cloudevents+json; charset=utf-8", {}, b'{"specversion":"1.0","id":"x-1","source":"/elsewhere",'
         b'"type":"payment.charge","datacontenttype":"application/json","data":{"order_id":"o-7"}}', False),
        ("application/json", {"cloudEvents:specversion": "1.0", "cloudEvents:id": "x-2", "cloudEvents:source": "/else",
         "cloudEvents:type": "payment.charge"}, b'{"order_id":"o-7"}', False),
        ("application/json", {"cloudevents:specversion": "1.0", "cloudevents:id": "x-3", "cloudevents:source": "/else",
         "cloudevents:type": "payment.charge"}, b'{"order_id":"o-7"}', False),
        ("text/plain", {"who": "knows"}, b"not one of ours", True),
    ],
    ids=["structured", "binary", "small letters", "no event"],
)  # fmt: skip
async def test_what_others_send_is_handled_if_it_is_an_event_and_else_a_dead_letter(
    clean: Channel,
    rabbitmq_server: RabbitMqServer,
    sqlite_url: str,
    content_type: str,
    headers: Mapping[str, str],
    body: bytes,
    is_dead: bool,
) -> None:
    box, happenings = make_box(sqlite_url, broker=rabbitmq_server.url)

    @box.on(ChargePayment, name="charge")
    async def charge(payment: ChargePayment, tx: AsyncConnection) -> None:
        await note(tx, payment.order_id)

    async with box.running():
        await create_tables(box)
        await _send_by_hand(clean, content_type, headers, body)
        if is_dead:
            await happenings.until(MessageDead)
            assert [one.message.body for one in await box.dead_letters.list()] == [body]
        else:
            await wait_until(has_noted(box, 1), WITHIN, what="the effect")
            assert await noted(box) == ["o-7"]


async def _send_by_hand(channel: Channel, content_type: str, headers: Mapping[str, str], body: bytes) -> None:
    properties = Properties(content_type=content_type, type=None, message_id=None, headers=headers)
    batch = Batch([letter("m1", "queue:payments", body=body)], [NOT_SENT])
    packed = pack_properties(properties, len(body))
    channel.publish(batch, 0, packed, exchange="queue:payments", routing_key="7")
    await wait_until(lambda: batch.results == [Confirmed()], WITHIN, what="a confirm")


@pytest.mark.usefixtures("private")
async def test_the_doctor_looks_at_the_broker_of_a_box(
    private_rabbitmq_server: RabbitMqServer, sqlite_url: str
) -> None:
    server = private_rabbitmq_server
    management = f"http://127.0.0.1:{server.management_port}"
    box, _ = make_box(sqlite_url, broker=f"{server.url}?management={management}")

    @box.on(ChargePayment, name="charge")
    async def charge(payment: ChargePayment, tx: AsyncConnection) -> None: ...

    async with box.running():
        pass
    await _set_policy(server, "^queue:payments/3$", {"message-ttl": 1000, "delivery-limit": 20})
    found: dict[str, Severity] = {}

    async def sees_the_policy() -> bool:
        diagnosis = await doctor_of(box.store, DiagnosisLimits(), box.broker).examine()
        found.update({one.code: one.severity for one in diagnosis.findings})
        return found.get("message-ttl") == found.get("delivery-limit") == Severity.WARNING

    await wait_until(sees_the_policy, WITHIN, what="the policy")
    assert found["queue-type"] == found["queue-length"] == found["alarm"] == found["management"] == Severity.OK
    assert found["copies"] == Severity.NOTICE
    await _clear_policy(server)
    await box.broker.close()
    await box.store.close()


@pytest.mark.usefixtures("private")
async def test_the_doctor_finds_a_policy_that_has_what_nobody_takes_confirmed(
    private_rabbitmq_server: RabbitMqServer, sqlite_url: str
) -> None:
    server = private_rabbitmq_server
    management = f"http://127.0.0.1:{server.management_port}"
    box, _ = make_box(sqlite_url, broker=f"{server.url}?management={management}")

    @box.on(ChargePayment, name="charge")
    async def charge(payment: ChargePayment, tx: AsyncConnection) -> None: ...

    async with box.running():
        pass
    policy = {"pattern": "^queue:payments$", "definition": {"alternate-exchange": "amq.fanout"}}
    await asyncio.to_thread(server.manage, "PUT", "policies/%2F/alternate", {**policy, "apply-to": "exchanges"})

    async def sees_the_policy() -> bool:
        diagnosis = await doctor_of(box.store, DiagnosisLimits(), box.broker).examine()
        found = {(one.code, one.subject): one.severity for one in diagnosis.findings}
        return found.get(("alternate-exchange", "queue:payments")) == Severity.ERROR

    await wait_until(sees_the_policy, WITHIN, what="the policy")
    await asyncio.to_thread(server.manage, "DELETE", "policies/%2F/alternate")
    await box.broker.close()
    await box.store.close()


@pytest.fixture
async def private(private_rabbitmq_server: RabbitMqServer) -> AsyncIterator[Channel]:
    """A channel that confirms, on a server of this module alone without the channels that the boxes use."""
    line = Line(address_of(private_rabbitmq_server.url), heartbeat_s=10)
    channel = Channel(await line.wire())
    await channel.ask(commands.Confirm.Select(), commands.Queue.Delete(queue="lost"))
    await _remove(channel)
    yield channel
    await line.close()


class Payments:
    """A box that charges payments on a server where somebody makes policies."""

    def __init__(self, server: RabbitMqServer, url: str, channel: Channel, *, user: str = "guest") -> None:
        self.server = server
        self.channel = channel
        self.box, self.happenings = make_box(url, broker=server.url.replace("guest", user))

        @self.box.on(ChargePayment, name="charge")
        async def charge(payment: ChargePayment, tx: AsyncConnection) -> None:
            await note(tx, payment.order_id)

    async def declared(self) -> None:
        """Make tables and queues, and end again."""
        async with self.box.running():
            await create_tables(self.box)

    async def send(self, order: str) -> None:
        """Send a message of ours into the partition 7, whatever its key."""
        sent = {"specversion": "1.0", "id": f"x-{order}", "source": "/elsewhere", "type": "payment.charge"}
        headers = {f"cloudEvents:{name}": value for name, value in {**sent, "subject": order}.items()}
        body = json.dumps({"order_id": order}).encode()
        await _send_by_hand(self.channel, "application/json", {**headers, "x-mine": "1"}, body)

    async def under(self, policy: Mapping[str, object], *, on: str = "^queue:payments/7$") -> None:
        """Set a policy, and wait until the queues obey it."""
        await _set_policy(self.server, on, policy)

        async def holds() -> bool:
            return (await _queues(self.server))["queue:payments/7"].get("policy") == "bad"

        await wait_until(holds, WITHIN, what="the policy")

    async def count(self, queue: str) -> int:
        """How many messages of a queue nobody has."""
        (declared,) = await self.channel.ask(commands.Queue.Declare(queue=queue, passive=True))
        return int(getattr(declared, "message_count", 0))

    async def until_in(self, queue: str, count: int = 1) -> None:
        """Wait until so many messages lie in a queue."""

        async def are_there() -> bool:
            return await self.count(queue) == count

        await wait_until(are_there, WITHIN, what=f"{count} messages in {queue}")

    async def expire(self, order: str) -> None:
        """Have a message expire."""
        await self.under({"message-ttl": 1, "dead-letter-exchange": "amq.fanout"})
        await self.send(order)
        await self.until_in("queue:payments/dead")
        await _clear_policy(self.server)

    async def exhaust(self, order: str) -> None:
        """Have a message delivered more often than a policy allows."""
        await self.under({"delivery-limit": 1})
        await self.send(order)

        async def is_put_aside() -> bool:
            came = asyncio.Event()

            def deliver(tag: int, packed: bytes, body: bytes) -> None:
                came.set()

            reader = Channel(self.channel.wire, deliver=deliver)
            await reader.ask(commands.Basic.Consume(queue="queue:payments/7"))
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await came.wait()
            reader.leave()
            return bool(await self.count("queue:payments/dead"))

        await wait_until(is_put_aside, WITHIN, what="a limit that is reached")
        await _clear_policy(self.server)


@pytest.mark.parametrize("reason", ["expired", "delivery_limit"])
async def test_what_the_server_put_aside_while_nobody_was_there_is_a_dead_letter_that_holds_its_key(
    private: Channel, private_rabbitmq_server: RabbitMqServer, sqlite_url: str, reason: str
) -> None:
    at = Payments(private_rabbitmq_server, sqlite_url, private)
    await at.declared()
    await (at.expire if reason == "expired" else at.exhaust)("o-7")

    async with at.box.running():
        await at.happenings.until(MessageDead)
        (dead,) = await at.box.dead_letters.list()
        assert (dead.reason, dead.attempts, dead.consumer, dead.message.key) == (reason, 0, "shop/charge", "o-7")
        assert (dead.message.id, dead.message.body) == ("x-o-7", b'{"order_id": "o-7"}')
        assert dead.message.headers == {"source": "/elsewhere", "x-mine": "1"}
        assert "queue:payments/7" in dead.error
        await publish(at.box, ChargePayment("o-7"), ChargePayment("o-8"))
        await at.happenings.until(MessageHeld)
        await wait_until(has_noted(at.box, 1), WITHIN, what="the other key")
        assert await noted(at.box) == ["o-8"]
    assert await at.count("queue:payments/dead") == 0

    async with at.box.running():
        await at.box.dead_letters.replay(dead.id, by="ann")
        await wait_until(has_noted(at.box, 3), WITHIN, what="the replay and what waited")
        assert await noted(at.box) == ["o-8", "o-7", "o-7"]
        assert await at.box.dead_letters.count() == 0
    handled = [one.message_id for one in at.happenings.of(MessageHandled)]
    assert handled.count("x-o-7") == 1


async def test_a_burial_whose_acknowledgement_is_lost_is_one_dead_letter(
    private: Channel, private_rabbitmq_server: RabbitMqServer, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Payments(private_rabbitmq_server, sqlite_url, private)
    await at.declared()
    await at.expire("o-7")

    def say_nothing(self: Channel, tags: object) -> None: ...

    with monkeypatch.context() as cut_off:
        cut_off.setattr(Channel, "acknowledge", say_nothing)
        async with at.box.running():
            await at.happenings.until(MessageDead)
    await at.until_in("queue:payments/dead")

    async with at.box.running():
        await at.happenings.until(MessageHeld)
        (dead,) = await at.box.dead_letters.list()
        await at.box.dead_letters.replay(dead.id, by="ann")
        await wait_until(has_noted(at.box, 1), WITHIN, what="the replay")
    assert await at.count("queue:payments/dead") == 0
    assert await _noted_in_the_end(at) == ["o-7"]


async def test_a_burial_that_is_rolled_back_is_made_again(
    private: Channel, private_rabbitmq_server: RabbitMqServer, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Payments(private_rabbitmq_server, sqlite_url, private)
    await at.declared()
    await at.expire("o-7")
    store = type(at.box.store.dead_letters)
    bury, failures = store.bury, [TransientError("cut off")]

    def cut_off(self: Any, consumer: str, burials: Sequence[Burial]) -> Program[Mapping[str, Arrival]]:
        arrivals = yield from bury(self, consumer, burials)
        if failures:
            raise failures.pop()
        return arrivals

    monkeypatch.setattr(store, "bury", cut_off)
    async with at.box.running():
        await at.happenings.until(MessageDead)
        assert len(await at.box.dead_letters.list()) == 1
    assert failures == []
    assert await at.count("queue:payments/dead") == 0


async def test_what_is_put_aside_while_its_dead_queue_is_missing_is_kept_until_there_is_one(
    private: Channel, private_rabbitmq_server: RabbitMqServer, sqlite_url: str
) -> None:
    at = Payments(private_rabbitmq_server, sqlite_url, private)
    await at.declared()
    await private.ask(commands.Queue.Delete(queue="queue:payments/dead"))
    await at.under({"message-ttl": 1})
    await at.send("o-7")
    await at.until_in("queue:payments/7", 0)
    await _clear_policy(at.server)

    async with at.box.running():
        await at.happenings.until(MessageDead)
        assert [one.reason for one in await at.box.dead_letters.list()] == ["expired"]


async def test_what_expires_in_the_dead_queue_too_stays_in_the_server_and_can_be_had(
    private: Channel, private_rabbitmq_server: RabbitMqServer, sqlite_url: str
) -> None:
    """As under a policy for all queues, while their consumer is away."""
    at = Payments(private_rabbitmq_server, sqlite_url, private)
    await at.declared()
    await at.under({"message-ttl": 1}, on="")
    await at.send("o-7")

    async def is_kept() -> bool:
        dead = (await _queues(at.server))["queue:payments/dead"]
        return (dead.get("messages"), dead.get("messages_ready")) == (1, 0)

    await wait_until(is_kept, WITHIN, what="a message that is there and cannot be had")
    await _clear_policy(at.server)
    await private.ask(
        commands.Queue.Declare(queue="queue:payments/kept", durable=True),
        commands.Queue.Bind(queue="queue:payments/kept", exchange="queue:payments", routing_key="queue:payments/kept"),
    )
    await at.until_in("queue:payments/kept")
    await _shovel(at.server, "queue:payments/kept", "queue:payments/dead")

    async with at.box.running():
        await at.happenings.until(MessageDead)
        (dead,) = await at.box.dead_letters.list()
        assert (dead.reason, dead.message.id) == ("expired", "x-o-7")


async def test_the_rights_to_what_bears_our_names_are_enough(
    private: Channel, private_rabbitmq_server: RabbitMqServer, sqlite_url: str
) -> None:
    ours = "^(topic|queue):"
    rights = {"configure": ours, "write": ours, "read": ours}
    manage = private_rabbitmq_server.manage
    await asyncio.to_thread(manage, "PUT", "users/clerk", {"password": "clerk", "tags": ""})
    await asyncio.to_thread(manage, "PUT", "permissions/%2F/clerk", rights)
    at = Payments(private_rabbitmq_server, sqlite_url, private, user="clerk")

    await at.declared()
    await at.expire("o-7")
    async with at.box.running():
        await publish(at.box, ChargePayment("o-8"))
        await at.happenings.until_settled(2)

    assert [len(at.happenings.of(kind)) for kind in (MessageHandled, MessageDead)] == [1, 1]


@pytest.mark.parametrize("is_dead", [False, True], ids=["to a partition", "to the dead queue"])
async def test_what_others_have_put_aside_is_brought_in_by_a_shovel(
    private: Channel, private_rabbitmq_server: RabbitMqServer, sqlite_url: str, is_dead: bool
) -> None:
    at = Payments(private_rabbitmq_server, sqlite_url, private)
    await at.declared()
    await private.ask(
        commands.Queue.Declare(queue="lost", durable=True),
        commands.Queue.Bind(queue="lost", exchange="queue:payments", routing_key="7"),
        commands.Queue.Unbind(queue="queue:payments/7", exchange="queue:payments", routing_key="7"),
    )
    await at.send("o-7")
    await _shovel(at.server, "lost", "queue:payments/dead" if is_dead else "queue:payments/7")

    async with at.box.running():
        await at.happenings.until_settled(1)
        assert [one.reason for one in await at.box.dead_letters.list()] == ["put-aside"] * is_dead
        assert await noted(at.box) == ["o-7"] * (not is_dead)


async def _shovel(server: RabbitMqServer, source: str, destination: str) -> None:
    ends = {"src-queue": source, "dest-queue": destination, "src-delete-after": "queue-length"}
    places = {"src-protocol": "amqp091", "src-uri": "amqp://", "dest-protocol": "amqp091", "dest-uri": "amqp://"}
    shovel = {"value": {**places, **ends}}
    await asyncio.to_thread(server.manage, "PUT", "parameters/shovel/%2F/bring-in", shovel)


async def _noted_in_the_end(at: Payments) -> list[str]:
    async with at.box:
        return await noted(at.box)


async def _set_policy(server: RabbitMqServer, pattern: str, definition: Mapping[str, object]) -> None:
    policy = {"pattern": pattern, "apply-to": "queues", "definition": definition}
    await asyncio.to_thread(server.manage, "PUT", "policies/%2F/bad", policy)


async def _clear_policy(server: RabbitMqServer) -> None:
    await asyncio.to_thread(server.manage, "DELETE", "policies/%2F/bad")


async def _queues(server: RabbitMqServer) -> Mapping[str, Mapping[str, Any]]:
    """Ask the queues themselves: the statistics of the management plugin are seconds late."""
    listed = await asyncio.to_thread(server.manage, "GET", "queues/%2F?disable_stats=true&enable_queue_totals=true")
    return {queue["name"]: queue for queue in listed}
