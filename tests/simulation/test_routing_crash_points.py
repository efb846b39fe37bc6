"""A router that ends before any statement, before any commit, or after it with the answer on its way.

Whatever it was doing, each message is in one place, and has its copies if and only if it counts as handled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, select, update

from pillarbox import ContentBasedRouter, Pillarbox, RecipientList
from pillarbox.app.membership import membership_of
from pillarbox.channel import Subscription
from pillarbox.consumer.drainer import Drainer
from pillarbox.consumer.worker import ConsumerWorker
from pillarbox.ordering import RunSize
from pillarbox.relational import metadata
from pillarbox.relational.tables import dead_letters, held, holds, inbox, leases, members, outbox, queue
from tests import effort
from tests.fault.story import SERVICE, TOPIC
from tests.simulation.bank import entry
from tests.simulation.stepped import SteppedStore
from tests.simulation.test_crash_points import Crash, Fuse

if TYPE_CHECKING:
    from random import Random

    from pillarbox.channel import Delivery
    from pillarbox.message import Message
    from pillarbox.relational import RelationalStore
    from pillarbox.routing import Route

IDENTITY = f"{SERVICE}/split"
FIRST, SECOND = "account-1", "account-2"
MESSAGES = [entry(1), entry(2), entry(1, SECOND), entry(3), entry(4), entry(2, SECOND)]


def by_number() -> Route:
    """Send odd entries to one channel and even ones to another; the third of an account has nowhere to go."""
    router = ContentBasedRouter("split", source=TOPIC)
    router.when({"field": "body.seq", "operator": "in", "value": [1, 5]}, to="odd")
    return router.when({"field": "body.seq", "operator": "in", "value": [2, 4]}, to="even")


def to_both() -> Route:
    """Send every entry to two channels."""
    return RecipientList("split", "odd", "even", source=TOPIC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where everything is, by id; copies as (destination, the message they are of), in order."""

    queued: set[str]
    held: set[str]
    dead: set[str]
    processed: set[str]
    copies: list[tuple[str, str]]
    ids: list[str]


class Router:
    """One process of the route whose rounds a test takes by hand."""

    def __init__(self, store: RelationalStore, route: Route) -> None:
        self.box = Pillarbox(SERVICE, store=store)
        self.box.include(route, concurrency=1)
        parts = self.box._parts()
        (consumer,) = self.box.consumers()
        worker, drainer = parts.consumer_workers(consumer)
        assert isinstance(worker, ConsumerWorker)
        assert isinstance(drainer, Drainer)
        self.worker, self.drainer, self.membership = worker, drainer, membership_of(parts)

    async def round(self) -> bool:
        """Receive and drain once; return whether there was anything to do."""
        deliveries: Sequence[Delivery] = await self.worker._receiver.receive(100, within=timedelta(0))
        if deliveries:
            items = [self.worker._item(one) for one in deliveries]
            await self.worker._process.handle(items, intake=self.worker._intake, size=RunSize(largest=100))
        return await self.drainer.round() or bool(deliveries)


async def look(store: RelationalStore) -> Found:
    """Look where everything is."""
    async with store.engine.connect() as connection:

        async def ids(table: object) -> set[str]:
            return set(await connection.scalars(select(table)))  # type: ignore[call-overload]

        statement = select(outbox.c.destination, outbox.c.headers, outbox.c.id).order_by(outbox.c.position)
        rows = (await connection.execute(statement)).all()
        return Found(
            queued=await ids(queue.c.message_id),
            held=await ids(held.c.message_id),
            dead=await ids(dead_letters.c.message_id),
            processed=await ids(inbox.c.message_id),
            copies=[(row[0], _parent(row[1])) for row in rows],
            ids=[row[2] for row in rows],
        )


def _parent(headers: str) -> str:
    return headers.partition('"causationid":"')[2].partition('"')[0]


def is_whole(found: Found, outputs: int) -> None:
    """Assert that nothing is lost or twice, and that copies and inbox rows are there or not as one."""
    for message in MESSAGES:
        places = [message.id in place for place in (found.queued, found.held, found.dead, found.processed)]
        assert sum(places) == 1, f"{message.id} is in {sum(places)} places"
        copies = [parent for _, parent in found.copies if parent == message.id]
        assert len(copies) == outputs * (message.id in found.processed), f"{message.id} has {len(copies)} copies"
    assert len(set(found.ids)) == len(found.ids)
    for destination in ("queue:odd", "queue:even"):
        for account in (FIRST, SECOND):
            numbers = [
                _number(parent) for to, parent in found.copies if to == destination and parent.startswith(f"{account}/")
            ]
            assert numbers == sorted(numbers), f"{account} in {destination}: {numbers}"


def _number(message_id: str) -> int:
    return int(message_id.removesuffix("-id").rpartition("/")[2])


async def begin(store: RelationalStore, messages: Sequence[Message]) -> None:
    """Forget everything and queue ``messages``."""
    async with store.begin() as transaction:
        for table in reversed(metadata.sorted_tables):
            if table.name != "pillarbox_schema_version":
                await transaction.connection.execute(delete(table))
        await transaction.run(store.queue.subscribe(Subscription(consumer=IDENTITY, channels=(TOPIC,))))
        await transaction.run(store.queue.enqueue(messages))


async def bury_the_living(store: RelationalStore) -> None:
    """Have every lease and membership end, as after a crash and a while."""
    async with store.begin() as transaction:
        for statement in (
            update(leases).values(expires_at=0),
            update(members).values(expires_at=0),
            update(holds).values(lease_until=0),
        ):
            await transaction.connection.execute(statement)


@pytest.mark.parametrize("kind", [by_number, to_both], ids=["router", "recipient-list"])
@pytest.mark.parametrize("store", ["psycopg", "sqlite"], indirect=True)
async def test_a_crash_at_any_step_neither_loses_nor_doubles_a_copy(
    store: RelationalStore, kind: object, rng: Random
) -> None:
    route = by_number if kind is by_number else to_both
    outputs = 1 if kind is by_number else 2
    stride = effort.of(1, 3)  # by default every third step, from one that the dice choose
    at = rng.randrange(stride)
    while True:
        await begin(store, MESSAGES)
        fuse = Fuse(at)
        router = Router(SteppedStore(store, fuse.step), route())
        try:
            await router.membership.round()
            await router.round()
        except Crash:
            pass
        else:
            break
        try:
            is_whole(await look(store), outputs)
            await bury_the_living(store)
            second = Router(store, route())
            await second.membership.round()
            while await second.round():
                pass
            found = await look(store)
            is_whole(found, outputs)
        except AssertionError as error:
            raise AssertionError(f"crash at step {at}, before {fuse.blown_before}: {error}") from error
        assert not found.queued
        if kind is by_number:
            assert (found.dead, found.held) == ({entry(3).id}, {entry(4).id}), "what is behind a dead message waits"
        else:
            assert found.processed == {message.id for message in MESSAGES}
        at += stride

    print(f"{at} crash points")
    assert at > 10
