"""A channel that the broker forbids to a box: it holds up its own messages, and no others."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pillarbox.observe import BrokerAway, DestinationNotReady, MessageHandled, RecordParked
from tests.conftest import started
from tests.integration.boxes import ChargePayment, OrderPlaced, make_box, publish
from tests.servers import NatsServer, RabbitMqServer, RedisServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITHIN = timedelta(seconds=20)
QUEUES_ALONE = "authorization {users: [{user: clerk, password: clerk, permissions: {publish: {deny: ['topic.>']}}}]}"


@pytest.fixture
def redis(private_redis_server: RedisServer) -> str:
    """A Redis whose user may use queues alone."""
    private_redis_server.ask("ACL", "SETUSER", "clerk", "on", ">clerk", "+@all", "~pillarbox:{queue:*")
    return private_redis_server.url.replace("://", "://clerk:clerk@")


@pytest.fixture
def nats(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[str]:
    """A NATS whose user may publish to queues alone."""
    config = tmp_path / "nats.conf"
    config.write_text(QUEUES_ALONE)
    server = NatsServer(options=["-c", str(config)])
    with started(server, pytestconfig):
        yield server.url.replace("://", "://clerk:clerk@")


@pytest.fixture
async def rabbitmq(private_rabbitmq_server: RabbitMqServer) -> str:
    """A RabbitMQ whose user may publish to queues alone."""
    rights = {"configure": "^(topic|queue):", "write": "^queue:", "read": "^(topic|queue):"}
    manage = private_rabbitmq_server.manage
    await asyncio.to_thread(manage, "PUT", "users/clerk", {"password": "clerk", "tags": ""})
    await asyncio.to_thread(manage, "PUT", "permissions/%2F/clerk", rights)
    return private_rabbitmq_server.url.replace("guest:guest", "clerk:clerk")


@pytest.fixture(params=["redis", "nats", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Where a box may publish to queues alone."""
    url: str = request.getfixturevalue(request.param)
    return url


async def test_a_forbidden_channel_is_refused_and_does_not_stop_the_others(broker_url: str, sqlite_url: str) -> None:
    box, happenings = make_box(sqlite_url, broker=broker_url)

    def is_told() -> bool:
        return any(happenings.of(kind) for kind in (BrokerAway, DestinationNotReady, RecordParked))

    @box.on(ChargePayment, name="charge", idempotency="natural")
    async def charge(payment: ChargePayment) -> None:
        pass

    async with box.running():
        await publish(box, OrderPlaced("a", 1), OrderPlaced("a", 2))
        await wait_until(is_told, WITHIN)
        await publish(box, ChargePayment("o-1"))
        await happenings.until(MessageHandled)
        (parked,) = happenings.of(RecordParked)

    assert parked.destination == "topic:order"
    assert "permission" in parked.reason or "access" in parked.reason
