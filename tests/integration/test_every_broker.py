"""What a service lives through on every broker: killed servers, cut and silent connections, poison, nobody there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Retry
from pillarbox.observe import DestinationNotReady, MessageDead
from tests.fault.story import stay_open
from tests.integration.boxes import OrderPlaced, create_tables, make_box, note, noted, publish
from tests.servers.proxy import Proxy
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from pillarbox import Pillarbox
    from tests.servers import Server

WITHIN = timedelta(seconds=60)
PACE_MS = 10  # some 400 orders a second
KILLS = 5
ATTEMPTS = 3
CUTS = 3
MEMBERS, STORM_MS = 3, 10_000
MEANWHILE, MOST_MIB = 1_500, 64


@pytest.fixture(params=["redis", "nats"])
def broker_server(request: pytest.FixtureRequest) -> Server:
    """A server of this test alone."""
    server: Server = request.getfixturevalue(f"private_{request.param}_server")
    return server


@pytest.fixture
def store_url(postgresql_url: str) -> str:
    """Where the service keeps its state."""
    return postgresql_url


class Shop:
    """A service that writes orders of a few keys and notes what it hears of them."""

    def __init__(self, url: str, broker: str, rng: Random) -> None:
        self.box, self.happenings = make_box(url, broker=broker)
        self.written = {f"o-{number}": 0 for number in range(8)}
        self._rng = rng

        @self.box.on(OrderPlaced, name="note")
        async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
            await note(tx, f"{order.order_id} {order.number}")

    async def write(self, until: asyncio.Event) -> None:
        """Publish orders."""
        while not until.is_set():
            orders: list[OrderPlaced] = []
            for key in self._rng.choices(list(self.written), k=5):
                orders.append(OrderPlaced(key, self.written[key]))
                self.written[key] += 1
            await publish(self.box, *orders)
            await stay_open(PACE_MS)

    async def lives_through(self, times: int, harm: Callable[[], Awaitable[None]]) -> None:
        """Write and handle while ``harm`` is done ``times`` times; then everything is handled once and in order."""
        async with self.box.running():
            await create_tables(self.box)
            enough = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(self.write(enough))
                for time in range(1, times + 1):
                    before = len(await noted(self.box))
                    await wait_until(has_noted(self.box, before + 40), WITHIN, what=f"progress before harm {time}")
                    await harm()
                before = len(await noted(self.box))
                await wait_until(has_noted(self.box, before + 40), WITHIN, what="progress after the last harm")
                enough.set()
            total = sum(self.written.values())
            await wait_until(has_noted(self.box, total), WITHIN, what=f"{total} effects")
            effects = await noted(self.box)

        print(f"{total} orders")
        assert len(effects) == total
        assert by_key(effects) == {key: list(range(count)) for key, count in self.written.items() if count}


def has_noted(box: Pillarbox, count: int) -> Callable[[], Awaitable[bool]]:
    """Tell whether so many effects are there."""

    async def has() -> bool:
        return len(await noted(box)) >= count

    return has


def by_key(effects: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of each key in the order of their effects."""
    found: dict[str, list[int]] = {}
    for effect in effects:
        key, number = effect.split()
        found.setdefault(key, []).append(int(number))
    return found


async def test_a_server_that_is_killed_again_and_again_loses_and_reorders_nothing(
    broker_server: Server, store_url: str, rng: Random
) -> None:
    """Committed means handled, once and in the order of its key, whatever the broker went through."""

    async def kill() -> None:
        await asyncio.to_thread(broker_server.kill)
        await asyncio.to_thread(broker_server.start)

    await Shop(store_url, broker_server.url, rng).lives_through(KILLS, kill)


@pytest.mark.parametrize("harm", ["cut", "black hole", "forgotten"])
async def test_a_connection_that_is_cut_or_falls_silent_loses_and_reorders_nothing(
    broker_server: Server, store_url: str, rng: Random, harm: str
) -> None:
    with Proxy(broker_server.port) as proxy:
        url = broker_server.url.replace(f":{broker_server.port}", f":{proxy.port}")

        async def cut() -> None:
            proxy.cut()

        async def swallow() -> None:
            accepted = proxy.accepted
            proxy.swallow()
            await wait_until(lambda: proxy.accepted > accepted, WITHIN, what="a connection that was given up")
            proxy.forward()

        async def forget() -> None:
            proxy.forget()

        harms: dict[str, tuple[int, Any]] = {"cut": (CUTS, cut), "black hole": (1, swallow), "forgotten": (1, forget)}
        await Shop(store_url, url, rng).lives_through(*harms[harm])


async def test_poison_is_dead_after_its_attempts_and_the_others_flow(broker_server: Server, store_url: str) -> None:
    box, happenings = make_box(store_url, broker=broker_server.url)
    tried: list[int] = []

    @box.on(OrderPlaced, name="note", retry=Retry(attempts=ATTEMPTS, immediate=ATTEMPTS - 1))
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        if order.order_id == "poison":
            tried.append(order.number)
            raise ValueError("it is broken")
        await note(tx, f"{order.order_id} {order.number}")

    async with box.running():
        await create_tables(box)
        await publish(box, *(OrderPlaced(key, number) for number in range(20) for key in ("poison", "a", "b")))
        await happenings.until(MessageDead)
        await wait_until(has_noted(box, 40), WITHIN, what="the effects of all others")
        effects = await noted(box)
        dead = await box.dead_letters.list()

    assert by_key(effects) == {"a": list(range(20)), "b": list(range(20))}
    assert tried == [0] * ATTEMPTS, "and the rest of its key is held"
    assert [letter.message.key for letter in dead] == ["poison"]


async def test_a_topic_that_nobody_heard_heals_when_somebody_does(broker_server: Server, store_url: str) -> None:
    deaf, happenings = make_box(store_url, broker=broker_server.url)
    async with deaf.running():
        await create_tables(deaf)
        await publish(deaf, *(OrderPlaced("o-1", number) for number in range(5)))
        await happenings.until(DestinationNotReady)
    box, _ = make_box(store_url, broker=broker_server.url)

    @box.on(OrderPlaced, name="note")
    async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
        await note(tx, f"{order.order_id} {order.number}")

    async with box.running():
        await wait_until(has_noted(box, 5), WITHIN, what="what had waited")
        assert by_key(await noted(box)) == {"o-1": list(range(5))}


async def test_members_that_come_and_go_lose_reorder_and_repeat_nothing(
    broker_server: Server, store_url: str, rng: Random
) -> None:
    """A rebalance storm: every second or so an instance joins or leaves."""
    shop = Shop(store_url, broker_server.url, rng)
    async with shop.box.running(consumers=False):
        await create_tables(shop.box)
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(shop.write(enough))
            members = [group.create_task(member(store_url, broker_server.url, rng, enough)) for _ in range(MEMBERS)]
            await stay_open(STORM_MS)
            enough.set()
        total, comings = sum(shop.written.values()), sum(task.result() for task in members)
        async with Shop(store_url, broker_server.url, rng).box.running(relay=False):
            await wait_until(has_noted(shop.box, total), WITHIN, what=f"{total} effects")
        effects = await noted(shop.box)

    print(f"{total} orders, {comings} comings")
    assert comings > MEMBERS
    assert by_key(effects) == {key: list(range(count)) for key, count in shop.written.items() if count}


async def member(url: str, broker: str, rng: Random, until: asyncio.Event) -> int:
    """Come and go until the end; return how often."""
    times = 0
    while not until.is_set():
        async with Shop(url, broker, rng).box.running(relay=False):
            times += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0.5, 2.0)):
                    await until.wait()
    return times


async def test_a_broker_that_is_away_for_a_while_disturbs_no_producer(
    broker_server: Server, store_url: str, rng: Random
) -> None:
    """What they publish meanwhile waits in the database, not in memory."""
    shop = Shop(store_url, broker_server.url, rng)

    async def be_away() -> None:
        await asyncio.to_thread(broker_server.kill)
        before, memory = sum(shop.written.values()), resident_mib()
        await wait_until(lambda: sum(shop.written.values()) >= before + MEANWHILE, WITHIN, what="orders meanwhile")
        assert resident_mib() - memory < MOST_MIB
        await asyncio.to_thread(broker_server.start)

    await shop.lives_through(1, be_away)


def resident_mib() -> float:
    """Return how much memory this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
