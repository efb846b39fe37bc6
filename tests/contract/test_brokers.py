"""Every broker keeps the contracts of both its ends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.database import DatabaseBroker
from pillarbox.brokers.kafka import KafkaBroker, kafka_broker
from pillarbox.brokers.memory import MemoryBroker
from pillarbox.brokers.nats import nats_broker
from pillarbox.brokers.partitions import PartitionLeases
from pillarbox.brokers.rabbitmq import rabbitmq_broker
from pillarbox.brokers.redis import redis_broker
from pillarbox.channel.wakeup import Wakeup
from pillarbox.relational import metadata
from pillarbox.stores.postgresql import postgresql_store
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.testing import VirtualClock
from pillarbox.testing.contracts import BrokerContract, BrokerHarness, ReceiverContract, SenderContract

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from pillarbox.channel import Broker
    from pillarbox.relational import RelationalStore

LEASED = {"redis": redis_broker, "nats": nats_broker, "rabbitmq": rabbitmq_broker}
LEASE, SHORT_LEASE = timedelta(seconds=15), timedelta(seconds=3)
BROKERS = [
    "memory",
    "database on memory",
    "database on sqlite",
    pytest.param("database on postgresql+psycopg", marks=pytest.mark.server),
    pytest.param("database on postgresql+asyncpg", marks=pytest.mark.server),
    pytest.param("redis", marks=pytest.mark.server),
    pytest.param("nats", marks=pytest.mark.server),
    pytest.param("kafka", marks=pytest.mark.server),
    pytest.param("rabbitmq", marks=pytest.mark.server),
]
KAFKA = "partitions=4&heartbeat.interval.ms=100&session.timeout.ms=6000"
"""Few partitions, and members that soon hear of each other."""


@pytest.fixture(params=BROKERS)
async def broker_harness(request: pytest.FixtureRequest) -> AsyncIterator[BrokerHarness]:
    """An open broker that nobody else uses; SQLite's clock is the virtual one, too."""
    clock = VirtualClock(autojump=True)
    if request.param == "memory":
        yield BrokerHarness(broker=MemoryBroker(clock=clock), again=lambda: MemoryBroker(clock=clock))
        return
    if request.param in LEASED:
        server = request.getfixturevalue(f"{request.param}_server")
        async with _leased(lambda leases: LEASED[request.param](server.url, leases=leases)) as harness:
            yield harness
        return
    if request.param == "kafka":
        async with _kafka(request.getfixturevalue("kafka_server").url) as harness:
            yield harness
        return
    store = _store(request, clock)
    await store.migrate()

    def broker() -> DatabaseBroker:
        return DatabaseBroker(queue=store.queue, leases=store.leases, source=store, clock=clock, wakeup=Wakeup())

    if store.name == "PostgreSQL":
        await _empty(store)
    yield BrokerHarness(broker=broker(), again=broker, source=store, let_time_pass=lambda: clock.advance(LEASE / 3))
    await store.close()


class TestBroker(BrokerContract):
    """See the contract."""


class TestSender(SenderContract):
    """See the contract."""


class TestReceiver(ReceiverContract):
    """See the contract."""


@asynccontextmanager
async def _leased(broker_with: Callable[[PartitionLeases], Broker]) -> AsyncGenerator[BrokerHarness]:
    """A broker on real time; its instances find each other through leases in a database, of which little must pass."""
    store = sqlite_store(make_url("sqlite://"))
    await store.migrate()
    leases = PartitionLeases(store=store.leases, source=store, clock=SystemClock(), ttl=SHORT_LEASE)
    broker = broker_with(leases)
    await broker.open()
    yield BrokerHarness(broker=broker, again=lambda: broker_with(leases))
    await broker.close()
    await store.close()


@asynccontextmanager
async def _kafka(url: str) -> AsyncGenerator[BrokerHarness]:
    """A broker on real time."""

    def broker() -> KafkaBroker:
        return kafka_broker(f"{url}?{KAFKA}", clock=SystemClock())

    first = broker()
    await first.open()
    yield BrokerHarness(broker=first, again=broker)
    await first.close()


def _store(request: pytest.FixtureRequest, clock: VirtualClock) -> RelationalStore:
    kind = request.param.removeprefix("database on ")
    if kind == "memory":
        return sqlite_store(make_url("sqlite://"), now=clock.now)
    if kind == "sqlite":
        return sqlite_store(make_url(request.getfixturevalue("sqlite_url")), now=clock.now)
    url = make_url(request.getfixturevalue("postgresql_module_url"))
    return postgresql_store(url.set(drivername=kind))


async def _empty(store: RelationalStore) -> None:
    async with store.engine.begin() as connection:
        for table in metadata.sorted_tables:
            if table.name != "pillarbox_schema_version":
                await connection.execute(table.delete())
