"""Boxes on a RabbitMQ: what committed is handled, once and in order, whatever the server goes through."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pamqp import commands
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Retry
from pillarbox.app.diagnosing import doctor_of
from pillarbox.brokers.rabbitmq.address import address_of
from pillarbox.brokers.rabbitmq.channel import Channel
from pillarbox.brokers.rabbitmq.confirms import NOT_SENT, Batch
from pillarbox.brokers.rabbitmq.frames import Properties, pack_properties
from pillarbox.brokers.rabbitmq.line import Line
from pillarbox.channel import Confirmed
from pillarbox.control.diagnosis import DiagnosisLimits, Severity
from pillarbox.observe import DestinationNotReady, MessageDead
from pillarbox.testing.contracts.broker_harness import letter
from tests.integration.boxes import ChargePayment, OrderPlaced, create_tables, effects, make_box, note, noted, publish
from tests.servers import RabbitMqServer
from tests.waiting import Deadline, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
    from random import Random

WITHIN = timedelta(seconds=60)
KILLS = 3
"""Each costs the eight seconds that RabbitMQ takes to start."""
BACKLOG = 300
"""Orders that may be under way while the server is."""
OLD_ENOUGH = timedelta(seconds=5)
"""The age at which a queue survives a kill: RabbitMQ does not find a quorum queue again that it made a second ago."""


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
    queues = [f"topic:order/shop/{name}/{number}" for name in ("note", "late", "fails") for number in range(16)]
    queues += [f"queue:payments/{number}" for number in (*range(16), "consumer")]
    await channel.ask(*(commands.Queue.Delete(queue=queue) for queue in queues))
    await channel.ask(*(commands.Exchange.Delete(exchange=name) for name in ("topic:order", "queue:payments")))


async def test_a_server_that_is_killed_again_and_again_loses_and_reorders_nothing(
    private_rabbitmq_server: RabbitMqServer, postgresql_url: str, rng: Random
) -> None:
    box, _ = make_box(postgresql_url, broker=private_rabbitmq_server.url)
    keys = [f"o-{number}" for number in range(8)]

    @box.on(OrderPlaced, name="note")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, f"{order.order_id} {order.number}")

    written: dict[str, int] = dict.fromkeys(keys, 0)

    async def is_short() -> bool:
        return sum(written.values()) < await _count(box) + BACKLOG

    async def write(until: asyncio.Event) -> None:
        while not until.is_set():
            await wait_until(is_short, WITHIN, what="a short backlog")
            orders: list[OrderPlaced] = []
            for key in [rng.choice(keys) for _ in range(5)]:
                orders.append(OrderPlaced(key, written[key]))
                written[key] += 1
            await publish(box, *orders)

    async with box.running():
        await create_tables(box)
        young = Deadline(OLD_ENOUGH)
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(write(enough))
            for times in range(1, KILLS + 1):
                before = await _count(box)
                await wait_until(lambda: young.passed, WITHIN)
                await wait_until(_has(box, before + 40), WITHIN, what=f"progress before kill {times}")
                await asyncio.to_thread(private_rabbitmq_server.kill)
                await asyncio.to_thread(private_rabbitmq_server.start)
            enough.set()
        total = sum(written.values())
        await wait_until(_has(box, total), WITHIN, what=f"{total} effects")
        came = await noted(box)

    print(f"{total} orders")
    assert len(came) == total
    assert _by_key(came) == {key: list(range(count)) for key, count in written.items() if count}


async def test_an_event_nobody_hears_waits_until_somebody_does(
    clean: Channel, rabbitmq_server: RabbitMqServer, postgresql_url: str
) -> None:
    early, happenings = make_box(postgresql_url, broker=rabbitmq_server.url)
    async with early.running():
        await create_tables(early)
        await publish(early, OrderPlaced("o-1"))
        await happenings.until(DestinationNotReady)
        late, _ = make_box(postgresql_url, broker=rabbitmq_server.url)

        @late.on(OrderPlaced, name="late")
        async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
            await note(tx, order.order_id)

        async with late.running():
            await wait_until(_has(late, 1), WITHIN, what="the event")

        assert await noted(late) == ["o-1"]


async def test_a_poison_message_is_dead_after_its_attempts_and_blocks_no_other_key(
    clean: Channel, rabbitmq_server: RabbitMqServer, sqlite_url: str
) -> None:
    box, happenings = make_box(sqlite_url, broker=rabbitmq_server.url)
    attempts: list[str] = []

    @box.on(OrderPlaced, name="fails", retry=Retry(attempts=3, first=timedelta(milliseconds=50)))
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        if order.order_id == "poison":
            attempts.append(order.order_id)
            raise RuntimeError("it cannot be handled")
        await note(tx, order.order_id)

    async with box.running():
        await create_tables(box)
        await publish(box, OrderPlaced("poison"), OrderPlaced("sound"))
        await happenings.until(MessageDead)
        await wait_until(_has(box, 1), WITHIN, what="the sound one")
        dead = await box.dead_letters.list()

    assert [one.attempts for one in dead] == [len(attempts)]
    assert len(attempts) == 3


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
            await wait_until(_has(box, 1), WITHIN, what="the effect")
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


def _has(box: Any, count: int) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def has() -> bool:
        return await _count(box) >= count

    return has


async def _count(box: Any) -> int:
    async with box.transaction() as tx:
        return int(await tx.scalar(select(func.count()).select_from(effects)))


def _by_key(whats: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for what in whats:
        key, number = what.split()
        found.setdefault(key, []).append(int(number))
    return found
