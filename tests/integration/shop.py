"""A service that writes orders of a few keys at a steady pace and notes what it hears of them, on any broker."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Retry, event
from pillarbox.channel import Delivery, MessageReceiver, Outcome
from pillarbox.testing.contracts.broker_harness import receive
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
from tests.servers import KafkaServer
from tests.servers.proxy import Proxy
from tests.waiting import wait_until

if TYPE_CHECKING:
    from random import Random

    from tests.servers import Server

WITHIN = timedelta(seconds=60)
TOGETHER = 3
AT_EASE_S, BUSY_S = effort.of(0.03, 0.06), 0.01
"""From one transaction of three orders to the next: 100 orders a second or half as many, or 300."""
SOON = Retry(attempts=5, immediate=0, first=timedelta(milliseconds=300), factor=1)
FALTER_EVERY, FAILURES = 6, 2
"""Of each key so many orders are handled at once; the next one fails so often, and holds the key meanwhile."""
SOME = effort.of(40, 20)
"""Effects that show that the service goes on."""


@dataclass(frozen=True, slots=True)
class Commit:
    """When a producer's transaction began, and how long it took."""

    at: float
    took: float


class Shop:
    """One process of the service; its topic is its own, so that many may use one server."""

    def __init__(self, store: str, broker: str, rng: Random, *, like: Shop | None = None) -> None:
        """Reach the database and the broker; with ``like`` as another process of the same service."""
        name = uuid4().hex[:8]
        self.service: str = f"shop-{name}" if like is None else like.service
        self.topic: str = f"order-{name}" if like is None else like.topic
        self.orders: type[OrderPlaced] = orders_of(self.topic) if like is None else like.orders
        self.box, self.happenings = make_box(store, broker=broker, service=self.service)
        self.written = {f"o-{number}": 0 for number in range(8)}
        self.commits: list[Commit] = []
        self.failures: Counter[str] = Counter() if like is None else like.failures
        self.every_s = AT_EASE_S
        self._rng = rng

    def listen(self, *, faltering: bool = False) -> Shop:
        """Note every order that is heard of; ``faltering``: some only at the third attempt, so that keys are held."""

        @self.box.on(self.orders, name="note", retry=SOON)
        async def handle(order: OrderPlaced, tx: AsyncConnection) -> None:
            what = f"{order.order_id} {order.number}"
            await note(tx, what)
            if faltering and order.number % FALTER_EVERY == 0 and self.failures[what] < FAILURES:
                self.failures[what] += 1
                raise ConnectionError

        return self

    async def check_at_rest(self) -> None:
        """Every order that was to fail has failed, nothing is held any more, and nothing is dead."""
        ought = sum(len(range(0, count, FALTER_EVERY)) for count in self.written.values())
        assert (len(self.failures), set(self.failures.values())) == (ought, {FAILURES})
        await wait_until(self._holds_nothing, WITHIN, what="an end of all holds")
        assert (await self.box.health()).vitals.dead == 0

    async def _holds_nothing(self) -> bool:
        state = await self.box.store.run(self.box.store.holding.state())
        return (state.keys, state.messages) == (0, 0)

    @property
    def total(self) -> int:
        """How many orders were written."""
        return sum(self.written.values())

    async def write(self, until: asyncio.Event) -> None:
        """Publish orders at a steady pace."""
        due = time.monotonic()
        while not until.is_set():
            orders: list[OrderPlaced] = []
            for key in self._rng.choices(list(self.written), k=TOGETHER):
                orders.append(self.orders(key, self.written[key]))
                self.written[key] += 1
            began = time.monotonic()
            await publish(self.box, *orders)
            ended = time.monotonic()
            self.commits.append(Commit(began, ended - began))
            due = max(due + self.every_s, ended - 1)  # it catches up, but not for long
            await stay_open(max(0, due - ended) * 1000)

    async def lives_through(self, times: int, harm: Callable[[], Awaitable[None]]) -> None:
        """Write and handle while ``harm`` is done ``times`` times; then everything is handled once and in order."""
        async with self.box.running():
            await create_tables(self.box)
            enough = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(self.write(enough))
                for number in range(1, times + 1):
                    await self._progress(f"before harm {number}")
                    await harm()
                await self._progress("after the last harm")
                enough.set()
            await wait_until(has_noted(self.box, self.total), WITHIN, what=f"{self.total} effects")
            effects = await noted(self.box)

        print(f"{self.total} orders")
        self.check(effects)

    def check(self, effects: Sequence[str]) -> None:
        """Every order has its effect once, those of a key in their order."""
        assert by_key(effects) == {key: list(range(count)) for key, count in self.written.items() if count}

    async def _progress(self, what: str) -> None:
        before = await count_noted(self.box)
        await wait_until(has_noted(self.box, before + SOME), WITHIN, what=f"progress {what}")


def orders_of(topic: str) -> type[OrderPlaced]:
    """Declare orders that are published to ``topic``."""

    @event(f"{topic}.placed", key="order_id")
    @dataclass(frozen=True)
    class Placed(OrderPlaced):
        """As any other order."""

    return Placed


@contextmanager
def proxied(server: Server) -> Iterator[tuple[Proxy, str]]:
    """Stand between a server and its clients; return what stands there, and the URL of the server behind it."""
    if isinstance(server, KafkaServer):
        with Proxy(server.behind_proxy_port, port=server.proxy_port) as proxy:
            yield proxy, f"kafka://127.0.0.1:{proxy.port}"
        return
    with Proxy(server.port) as proxy:
        yield proxy, server.url.replace(f":{server.port}", f":{proxy.port}")


def p99_ms(times_s: Sequence[float]) -> float:
    """Return what all but one in a hundred stay below."""
    return 1000 * sorted(times_s)[len(times_s) * 99 // 100]


def resident_mib() -> float:
    """Return how much memory this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def receive_all_but_first(receiver: MessageReceiver, count: int) -> list[Delivery]:
    """Receive ``count`` deliveries and accept all but the first, by as many as one place hands out at once."""
    came: list[Delivery] = []
    while len(came) < count:
        portion = await receive(receiver, min(100, count - len(came)))
        await receiver.settle(portion if came else portion[1:], Outcome.ACCEPTED)
        came += portion
    return came
