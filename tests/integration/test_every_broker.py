"""What a service lives through on every broker: killed servers, cut and silent connections, poison, nobody there."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import ContentBasedRouter, DeadLetterFilter, Retry, WireTap
from pillarbox.errors import ThrottledError
from pillarbox.observe import DestinationNotReady, MessageDead, WorkerFaltered
from tests import effort
from tests.fault.story import stay_open
from tests.integration.boxes import (
    OrderPlaced,
    by_key,
    count_noted,
    create_tables,
    has_noted,
    make_box,
    note,
    noted,
    publish,
)
from tests.integration.shop import AT_EASE_S, BUSY_S, WITHIN, Shop, orders_of, p99_ms, proxied, resident_mib
from tests.servers import RabbitMqServer
from tests.waiting import Deadline, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from pillarbox import Pillarbox
    from tests.servers import Server

ALL = ["redis", "nats", "kafka", "rabbitmq"]
KILLS = effort.of(5, 2)
AWAY = timedelta(seconds=effort.of(60, 3))
OLD_ENOUGH_MS = 5_000
"""The age at which a queue survives a kill: RabbitMQ does not find a quorum queue again that it made a second ago."""
CALM, MOST_MIB, FACTOR, GRACE_MS = effort.of(450, 240), 64, 3, 50
HICCUP_MS = 250
"""A busy machine's, in the slowest hundredth of few messages."""
OPTIONS = {"kafka": "?partitions=4&heartbeat.interval.ms=100&session.timeout.ms=6000&drain=2"}
"""Few partitions, and members that soon hear of each other."""
NOTICING = {"kafka": f"{OPTIONS['kafka']}&socket.timeout.ms=3000", "rabbitmq": "?heartbeat=1"}
"""And silence that is soon noticed."""
EVEN = {"field": "body.number", "operator": "in", "value": [0, 2, 4, 6]}
MEMBERS, STORM_MS = 3, effort.of(30_000, 6_000)


@pytest.fixture
def broker_server(request: pytest.FixtureRequest) -> Server:
    """A server that may be killed."""
    server: Server = request.getfixturevalue(f"private_{request.param}_server")
    return server


@pytest.fixture
def broker_url(broker_server: Server) -> str:
    """Where it is, and how it is used."""
    return broker_server.url + OPTIONS.get(broker_server.name, "")


@pytest.fixture
def store_url(postgresql_url: str) -> str:
    """Where the service keeps its state."""
    return postgresql_url


on_every_broker = pytest.mark.parametrize("broker_server", ALL, indirect=True)


@on_every_broker
async def test_a_server_that_is_killed_again_and_again_loses_and_reorders_nothing(
    broker_server: Server, broker_url: str, store_url: str, rng: Random
) -> None:
    """Committed means handled, once and in the order of its key, whatever the broker went through.

    The last time it stays away for a while. What is published meanwhile waits in the database, not in memory.
    """
    shop = Shop(store_url, broker_url, rng).listen()
    numbers = iter(range(1, KILLS + 1))

    async def kill() -> None:
        number = next(numbers)
        is_last = number == KILLS
        if number == 1 and isinstance(broker_server, RabbitMqServer):
            await stay_open(OLD_ENOUGH_MS)
        if is_last:
            shop.every_s, before = BUSY_S, await count_noted(shop.box)
            await wait_until(has_noted(shop.box, before + CALM), WITHIN, what="a calm time")
        await asyncio.to_thread(broker_server.kill)
        if is_last:
            await be_away(shop)
            shop.every_s = AT_EASE_S
        await asyncio.to_thread(broker_server.start)

    await shop.lives_through(KILLS, kill)


async def be_away(shop: Shop) -> None:
    """Let a while pass in which producers are as quick as they were, and no memory fills up."""
    calm, memory, until = shop.commits[-CALM // 3 :], resident_mib(), Deadline(AWAY)
    first = len(shop.commits) + 1
    wanted = first + int(AWAY.total_seconds() / BUSY_S)
    await wait_until(lambda: until.passed and len(shop.commits) >= wanted, AWAY + WITHIN, what="orders meanwhile")

    usual, meanwhile = (p99_ms([one.took for one in some]) for some in (calm, shop.commits[first:]))
    grown = resident_mib() - memory
    print(f"producers: p99 {usual:.0f} ms before, {meanwhile:.0f} ms meanwhile; memory grew by {grown:.0f} MiB")
    assert meanwhile <= FACTOR * usual + GRACE_MS
    assert grown < MOST_MIB


HARMS = [
    *((kind, harm) for kind in ("redis", "nats") for harm in ("cut", "black hole", "no answers", "forgotten")),
    *(("kafka", harm) for harm in ("black hole", "no answers", "forgotten")),
    ("rabbitmq", "no answers"),
]
SOME_HARMS = [
    ("redis", "cut"),
    ("redis", "no answers"),
    ("nats", "black hole"),
    ("nats", "forgotten"),
    ("kafka", "no answers"),
    ("rabbitmq", "no answers"),
]
CUTS = 3


@pytest.mark.parametrize(("broker_server", "harm"), effort.of(HARMS, SOME_HARMS), indirect=["broker_server"])
async def test_a_connection_that_is_cut_or_falls_silent_loses_and_reorders_nothing(
    broker_server: Server, store_url: str, rng: Random, harm: str
) -> None:
    with proxied(broker_server) as (proxy, url):

        async def cut() -> None:
            proxy.cut()

        async def until_given_up() -> None:
            accepted = proxy.accepted
            await wait_until(lambda: proxy.accepted > accepted, WITHIN, what="a connection that was given up")
            proxy.forward()

        async def swallow() -> None:
            proxy.swallow()
            await until_given_up()

        async def swallow_answers() -> None:
            proxy.swallow_answers()
            await until_given_up()

        async def forget() -> None:
            proxy.forget()

        harms: dict[str, tuple[int, Any]] = {
            "cut": (CUTS, cut),
            "black hole": (1, swallow),
            "no answers": (1, swallow_answers),
            "forgotten": (1, forget),
        }
        shop = Shop(store_url, url + NOTICING.get(broker_server.name, ""), rng).listen()
        await shop.lives_through(*harms[harm])


ATTEMPTS, RETRIED_AFTER_MS = 3, 400
POISON, BESIDE_POISON = 3, range(1, 6)
"""The number of the order that is poison, and all of its key."""
ROUNDS, NEIGHBOURS, PER_ROUND, AT_ONCE, EVERY_MS = effort.of(3, 2), 40, 3, 4, 20


@dataclass(slots=True)
class Latencies:
    """How long orders took from their commit to their handler; where it was called again, to the last call."""

    committed: dict[tuple[str, int], float] = field(default_factory=dict)
    handled: dict[tuple[str, int], float] = field(default_factory=dict)

    def p99_ms(self) -> float:
        return p99_ms([self.handled[order] - at for order, at in self.committed.items()])


@on_every_broker
async def test_poison_is_dead_after_its_attempts_slows_down_no_other_and_is_replayed_in_its_place(
    broker_server: Server, broker_url: str, store_url: str, rng: Random
) -> None:
    """Rounds with poison and without take turns; a retry that held up its neighbours would show in their p99."""
    shop = Shop(store_url, broker_url, rng)
    tried: list[str] = []
    latencies, waits_ms, is_mended = Latencies(), float(RETRIED_AFTER_MS), False

    @shop.box.on(shop.orders, name="note", retry=Retry(attempts=ATTEMPTS, immediate=0))
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        if order.order_id.startswith("poison") and order.number == POISON and not is_mended:
            tried.append(order.order_id)
            raise ThrottledError("it is broken", retry_after=timedelta(milliseconds=waits_ms))
        latencies.handled[order.order_id, order.number] = time.monotonic()
        await note(tx, f"{order.order_id} {order.number}")

    p99: dict[bool, list[float]] = {True: [], False: []}
    async with shop.box.running():
        await create_tables(shop.box)
        await write_and_wait(shop, latencies, number=0)  # to be warm
        for number in range(1, 2 * ROUNDS + 1):
            with_poison = number % 2 == 0
            latencies.committed.clear()
            if with_poison:
                await publish(shop.box, *(shop.orders(f"poison-{number}", one) for one in BESIDE_POISON))
            await write_and_wait(shop, latencies, number=number, besides=(POISON - 1) * (number // 2))
            p99[with_poison].append(latencies.p99_ms())
            waits_ms = max(waits_ms, 3 * max(p99[False]))  # what would show also where all is slow
            await shop.happenings.until(MessageDead, number // 2)
        dead = await shop.box.dead_letters.list()
        effects = await noted(shop.box)
        is_mended = True
        await shop.box.dead_letters.replay_all(DeadLetterFilter(), by="ann")
        await wait_until(has_noted(shop.box, len(effects) + ROUNDS * 3), WITHIN, what="the replays and what they held")
        mended = by_key(await noted(shop.box))

    poisons = [f"poison-{number}" for number in range(2, 2 * ROUNDS + 1, 2)]
    print(f"p99 of the others: {p99[True]} ms beside poison, {p99[False]} ms without")
    assert sorted(tried) == sorted(poisons * ATTEMPTS)
    assert sorted(letter.message.key or "" for letter in dead) == poisons
    assert {letter.attempts for letter in dead} == {ATTEMPTS}
    count = (2 * ROUNDS + 1) * PER_ROUND
    others = {f"n-{key}": list(range(count)) for key in range(NEIGHBOURS)}
    assert by_key(effects) == others | {key: [1, 2] for key in poisons}, "what is behind poison in its key is held"
    assert mended == others | {key: list(BESIDE_POISON) for key in poisons}
    assert median(p99[True]) <= 2 * median(p99[False]) + HICCUP_MS


async def write_and_wait(shop: Shop, latencies: Latencies, *, number: int, besides: int = 0) -> None:
    """Publish some orders of each neighbour at a steady pace; wait for their effects and ``besides`` more."""
    for one in range(number * PER_ROUND, (number + 1) * PER_ROUND):
        for start in range(0, NEIGHBOURS, AT_ONCE):
            orders = [shop.orders(f"n-{key}", one) for key in range(start, start + AT_ONCE)]
            await publish(shop.box, *orders)
            latencies.committed.update({(order.order_id, order.number): time.monotonic() for order in orders})
            await stay_open(EVERY_MS)
    total = (number + 1) * PER_ROUND * NEIGHBOURS + besides
    await wait_until(has_noted(shop.box, total), WITHIN, what="the effects of all others")


@on_every_broker
async def test_a_topic_that_nobody_heard_heals_when_somebody_does(
    broker_server: Server, broker_url: str, store_url: str, rng: Random
) -> None:
    deaf = Shop(store_url, broker_url, rng)
    async with deaf.box.running():
        await create_tables(deaf.box)
        await publish(deaf.box, *(deaf.orders("o-1", number) for number in range(5)))
        await deaf.happenings.until(DestinationNotReady)
    shop = Shop(store_url, broker_url, rng, like=deaf).listen()

    async with shop.box.running():
        await wait_until(has_noted(shop.box, 5), WITHIN, what="what had waited")
        assert by_key(await noted(shop.box)) == {"o-1": list(range(5))}


@on_every_broker
async def test_processes_start_while_the_broker_is_away_and_publish_and_handle_when_it_is_back(
    broker_server: Server, broker_url: str, sqlite_url: str
) -> None:
    """Of a topic that nobody else hears: it waits for whoever does."""
    orders = orders_of(f"away-{uuid4().hex[:8]}")
    await asyncio.to_thread(broker_server.kill)
    web, told = make_box(sqlite_url, broker=broker_url)
    worker, told_of_worker = make_box(sqlite_url, broker=broker_url)

    @worker.on(orders, name="handle")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, f"{order.order_id} {order.number}")

    async with web.running(consumers=False):
        await create_tables(web)
        async with worker.running():
            for number in range(3):
                await publish(web, orders("o-1", number))
            assert {one.worker for one in told.of(WorkerFaltered)} >= {"broker"}
            assert {one.worker for one in told_of_worker.of(WorkerFaltered)} >= {"broker", "membership"}
            await asyncio.to_thread(broker_server.start)

            await wait_until(has_noted(web, 3), WITHIN, what="what was published meanwhile")
            assert await noted(web) == [f"o-1 {number}" for number in range(3)]


@pytest.mark.parametrize("broker_server", ["redis", "nats", "kafka"], indirect=True)
async def test_a_new_consumer_gets_what_its_own_process_published_while_the_broker_was_away(
    broker_server: Server, broker_url: str, sqlite_url: str
) -> None:
    """Of a topic that others hear already: the relay may be quicker at the broker than the declaration."""
    before, _ = make_box(sqlite_url, broker=broker_url)
    before.on(OrderPlaced, name="old")(partial(note_at, desk="old"))
    async with before.running():
        await create_tables(before)
        await publish(before, OrderPlaced("o-1", 0))
        await wait_until(has_noted(before, 1), WITHIN)
    await asyncio.to_thread(broker_server.kill)
    box, told = make_box(sqlite_url, broker=broker_url)
    box.on(OrderPlaced, name="old")(partial(note_at, desk="old"))
    box.on(OrderPlaced, name="new")(partial(note_at, desk="new"))

    async with box.running():
        await publish(box, OrderPlaced("o-1", 1))
        await told.until(WorkerFaltered, 2)
        await asyncio.to_thread(broker_server.start)
        await wait_until(has_noted(box, 2), WITHIN)
        await publish(box, OrderPlaced("o-1", 2))

        async def has_heard_of_the_last() -> bool:
            return "new 2" in await noted(box)

        await wait_until(has_heard_of_the_last, WITHIN)
        assert "new 1" in await noted(box)


async def note_at(order: OrderPlaced, tx: AsyncConnection, *, desk: str) -> None:
    """Note what came to which desk."""
    await note(tx, f"{desk} {order.number}")


@on_every_broker
async def test_what_is_routed_tapped_and_delayed_arrives_where_and_when_it_is_to(
    broker_url: str, sqlite_url: str
) -> None:
    box, happenings = make_box(sqlite_url, broker=broker_url)
    box.include(ContentBasedRouter("orders", source=OrderPlaced, default="rest").when(EVEN, to="even"))
    box.include(WireTap("tap", source="queue:even", to="topic:audits", then="even.tapped"))
    for desk, channel in (("rest", "rest"), ("even", "even.tapped"), ("audit", "topic:audits")):
        box.on(OrderPlaced, name=desk, channel=channel)(partial(note_at, desk=desk))

    async with box.running():
        await create_tables(box)
        async with box.transaction() as tx:
            await box.publish(OrderPlaced("o-1", 6), tx=tx, delay=timedelta(days=1))
            await box.publish(OrderPlaced("o-1", 4), tx=tx, delay=timedelta(milliseconds=400))
            await box.publish_all([OrderPlaced("o-1", number) for number in range(4)], tx=tx)
        await happenings.until_settled(5 + 2 + 3 * 3)

        effects = await noted(box)
        assert [what for what in effects if what.startswith("rest")] == ["rest 1", "rest 3"]
        assert [what for what in effects if what.startswith("even")] == ["even 0", "even 2", "even 4"]
        assert [what for what in effects if what.startswith("audit")] == ["audit 0", "audit 2", "audit 4"]
        assert (await box.store.run(box.store.outbox.state())).scheduled == 1


@pytest.mark.parametrize("broker_server", ["redis", "nats", "rabbitmq"], indirect=True)
async def test_members_that_come_and_go_lose_reorder_and_repeat_nothing(
    broker_server: Server, broker_url: str, store_url: str, rng: Random
) -> None:
    """A rebalance storm: every second or so an instance joins or leaves, while keys are held and drained."""
    shop = Shop(store_url, broker_url, rng).listen(faltering=True)

    def another() -> Pillarbox:
        return Shop(store_url, broker_url, rng, like=shop).listen(faltering=True).box

    async with shop.box.running(consumers=False):
        await create_tables(shop.box)
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(shop.write(enough))
            members = [group.create_task(member(another, rng, enough)) for _ in range(MEMBERS)]
            await stay_open(STORM_MS)
            enough.set()
        comings = sum(task.result() for task in members)
        async with another().running(relay=False):
            await wait_until(has_noted(shop.box, shop.total), WITHIN, what=f"{shop.total} effects")
            await shop.check_at_rest()
        effects = await noted(shop.box)

    print(f"{shop.total} orders, {len(shop.failures)} of them held for a while, {comings} comings")
    assert comings > MEMBERS
    shop.check(effects)


async def member(another: Callable[[], Pillarbox], rng: Random, until: asyncio.Event) -> int:
    """Come and go until the end; return how often."""
    times = 0
    while not until.is_set():
        async with another().running(relay=False):
            times += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0.5, 2.0)):
                    await until.wait()
    return times
