"""Boxes on a RabbitMQ: what they make of messages of others, and what the doctor sees."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING

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
from pillarbox.observe import MessageDead
from pillarbox.testing.contracts.broker_harness import letter
from tests.integration.boxes import ChargePayment, create_tables, has_noted, make_box, note, noted
from tests.servers import RabbitMqServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

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
    queues = [f"queue:payments/{number}" for number in (*range(16), "consumer")]
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
    policy = ("--apply-to", "queues", "bad", "^queue:payments/3$", '{"message-ttl":1000,"delivery-limit":20}')
    await asyncio.to_thread(server.control, "set_policy", *policy)
    found: dict[str, Severity] = {}

    async def sees_the_policy() -> bool:
        diagnosis = await doctor_of(box.store, DiagnosisLimits(), box.broker).examine()
        found.update({one.code: one.severity for one in diagnosis.findings})
        return found.get("message-ttl") == Severity.ERROR

    await wait_until(sees_the_policy, WITHIN, what="the policy")
    assert found["delivery-limit"] == Severity.ERROR
    assert found["queue-type"] == found["queue-length"] == found["alarm"] == found["management"] == Severity.OK
    assert found["copies"] == Severity.NOTICE
    await asyncio.to_thread(server.control, "clear_policy", "bad")
    await box.broker.close()
    await box.store.close()


async def test_what_the_server_put_aside_comes_back_by_a_shovel(
    private_rabbitmq_server: RabbitMqServer, sqlite_url: str
) -> None:
    server = private_rabbitmq_server
    box, _ = make_box(sqlite_url, broker=server.url)

    @box.on(ChargePayment, name="charge")
    async def charge(payment: ChargePayment, tx: AsyncConnection) -> None:
        await note(tx, payment.order_id)

    async with box.running():
        await create_tables(box)
    line = Line(address_of(server.url), heartbeat_s=10)
    channel = Channel(await line.wire())
    await channel.ask(commands.Confirm.Select(), commands.Queue.Declare(queue="lost", durable=True))
    policy = {"message-ttl": 1, "dead-letter-exchange": "", "dead-letter-routing-key": "lost"}
    await _control(server, "set_policy", "--apply-to", "queues", "bad", "^queue:payments/7$", json.dumps(policy))
    sent = {"specversion": "1.0", "id": "x-1", "source": "/elsewhere", "type": "payment.charge"}
    headers = {f"cloudEvents:{name}": value for name, value in sent.items()}

    async def is_put_aside() -> bool:
        (declared,) = await channel.ask(commands.Queue.Declare(queue="lost", passive=True))
        return bool(getattr(declared, "message_count", 0))

    await _send_by_hand(channel, "application/json", headers, b'{"order_id":"o-7"}')
    await wait_until(is_put_aside, WITHIN, what="the queue of the policy")
    await _control(server, "clear_policy", "bad")
    ends = {"src-queue": "lost", "dest-queue": "queue:payments/7", "src-delete-after": "queue-length"}
    places = {"src-protocol": "amqp091", "src-uri": "amqp://", "dest-protocol": "amqp091", "dest-uri": "amqp://"}
    await _control(server, "set_parameter", "shovel", "bring-in", json.dumps({**places, **ends}))

    async with box.running():
        await wait_until(has_noted(box, 1), WITHIN, what="the effect")

    await line.close()


async def _control(server: RabbitMqServer, *command: str) -> None:
    await asyncio.to_thread(server.control, *command)
