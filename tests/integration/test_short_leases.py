"""Instances whose leases are short keep them while nothing comes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, make_url, select

from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.nats import nats_broker
from pillarbox.brokers.partitions import PARTITIONS, PartitionLeases
from pillarbox.brokers.rabbitmq import rabbitmq_broker
from pillarbox.brokers.redis import redis_broker
from pillarbox.relational.tables import leases
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.testing.contracts.broker_harness import new_subscription, new_topic
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox.channel import MessageReceiver
    from pillarbox.relational import RelationalStore
    from tests.servers import Server

SHORT = timedelta(seconds=1)
QUIET = timedelta(seconds=1)
"""As long as a consumer waits for messages."""
ROUNDS = 6
BROKERS: dict[str, Any] = {"nats": nats_broker, "rabbitmq": rabbitmq_broker, "redis": redis_broker}


@pytest.mark.parametrize("name", BROKERS)
async def test_instances_keep_leases_of_a_second_while_nothing_comes(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(f"{name}_server")
    store = sqlite_store(make_url("sqlite://"))
    await store.migrate()
    terms = PartitionLeases(store=store.leases, source=store, clock=SystemClock(), ttl=SHORT)
    broker, subscription = BROKERS[name](server.url, leases=terms), new_subscription(new_topic())
    await broker.open()
    await broker.declare([subscription])
    receivers = [broker.receiver(subscription, owner=owner) for owner in ("one", "another")]

    async def are_shared() -> bool:
        await asyncio.gather(*(receiver.receive(0, within=timedelta(0)) for receiver in receivers))
        return await owned(store) == {"one": PARTITIONS // 2, "another": PARTITIONS // 2}

    try:
        await wait_until(are_shared)
        before = await tokens(store)
        await asyncio.gather(*(quiet(receiver) for receiver in receivers))
        assert await tokens(store) == before, "nobody has taken what was another's"
    finally:
        for receiver in receivers:
            await receiver.close()
        await broker.close()
        await store.close()


async def quiet(receiver: MessageReceiver) -> None:
    """Wait for messages, of which there are none."""
    for _ in range(ROUNDS):
        assert list(await receiver.receive(1, within=QUIET)) == []


async def owned(store: RelationalStore) -> dict[str, int]:
    """Return how many partitions each instance leases."""
    async with store.engine.connect() as connection:
        found = select(leases.c.owner, func.count()).where(leases.c.owner.is_not(None)).group_by(leases.c.owner)
        return {row[0]: row[1] for row in await connection.execute(found)}


async def tokens(store: RelationalStore) -> dict[int, int]:
    """Return under which token each partition is leased."""
    async with store.engine.connect() as connection:
        return {row[0]: row[1] for row in await connection.execute(select(leases.c.slot, leases.c.token))}
