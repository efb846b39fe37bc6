"""A held key that is full: its channel keeps the rest, nothing is lost, and its order is kept when it goes on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Alert, Retry, Settings, SingleConsumer
from pillarbox.errors import ConfigurationError, PermanentError
from pillarbox.observe import HeldKeyFull, MessageDead, MessageHandled
from tests import effort
from tests.integration.boxes import (
    SETTINGS,
    OrderPlaced,
    by_key,
    create_tables,
    has_noted,
    make_box,
    noted,
    publish,
)
from tests.integration.full_key_worker import CAP, POISON, full_key_box
from tests.integration.shop import orders_of
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from tests.processes import PythonProcess, PythonProcesses

WITHIN = timedelta(seconds=60)
BEHIND = 300
OTHERS = [f"o-{number}" for number in range(10)]
EACH = 5


class Service:
    """A box whose one handler fails for the first of the poisoned key, until it is mended."""

    def __init__(self, mode: str, broker: str, *, is_alone: bool = False) -> None:
        self.box, self.happenings = make_box("memory://", broker=broker, settings=replace(SETTINGS, max_held=CAP))
        self.handled: list[tuple[str, int]] = []
        self.is_mended = False
        self.alerts: list[Alert] = []
        self.box.alert_to(self._tell)
        ordering = {"ordering": SingleConsumer()} if is_alone else {}
        on = self.box.on(  # type: ignore[call-overload]
            OrderPlaced,
            name="post",
            retry=Retry(attempts=1),
            when_dead="hold-key",
            batch=10 if mode == "batch" else None,
            idempotency="inbox" if mode == "outside" else None,
            outside=mode == "outside",
            **ordering,
        )
        on({"transaction": self._in_transaction, "outside": self._outside, "batch": self._batch}[mode])

    async def _tell(self, alert: Alert) -> None:
        self.alerts.append(alert)

    def _handle(self, order: OrderPlaced) -> None:
        if order.order_id == POISON and order.number == 0 and not self.is_mended:
            raise PermanentError("it is broken")
        self.handled.append((order.order_id, order.number))

    async def _in_transaction(self, order: OrderPlaced, tx: AsyncConnection) -> None:
        self._handle(order)

    async def _outside(self, order: OrderPlaced) -> None:
        self._handle(order)

    async def _batch(self, orders: list[OrderPlaced], tx: AsyncConnection) -> None:
        done = list(self.handled)
        try:
            for order in orders:
                self._handle(order)
        except PermanentError:
            self.handled = done
            raise

    def of(self, key: str) -> list[int]:
        """The numbers of a key that were handled, in that order."""
        return [number for one, number in self.handled if one == key]

    async def fill(self) -> None:
        """Have the first of the key dead, and as many behind it as may be."""
        await publish(self.box, OrderPlaced(POISON, 0))
        await self.happenings.until(MessageDead)
        await publish(self.box, *(OrderPlaced(POISON, number) for number in range(1, CAP + 1)))
        await wait_until(lambda: self.held(CAP), WITHIN, what="a full key")

    async def held(self, count: int) -> bool:
        """Whether so many messages are held."""
        return (await self.box.health()).vitals.holding.messages == count


MODES = ["transaction", "outside", "batch"]


@pytest.mark.parametrize("broker", ["database://", "memory://"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_full_key_leaves_the_rest_to_its_channel_and_goes_on_in_order(mode: str, broker: str) -> None:
    """Much more waits in the channel than is held, so the hold is drained and filled again and again."""
    at = Service(mode, broker)
    async with at.box.running():
        await at.fill()
        rest = [OrderPlaced(POISON, number) for number in range(CAP + 1, BEHIND)]
        others = [OrderPlaced(key, number) for number in range(EACH) for key in OTHERS]
        await publish(at.box, *rest[:20], *others, *rest[20:])
        await at.happenings.until(MessageHandled, len(others))
        await at.happenings.until(HeldKeyFull)
        assert await at.held(CAP), "no more is held than may be"
        assert {key: at.of(key) for key in OTHERS} == {key: list(range(EACH)) for key in OTHERS}
        assert at.of(POISON) == []
        await wait_until(lambda: any(one.rule == "full-key" for one in at.alerts), WITHIN, what="an alert")
        assert any("a held key is full with 5 messages" in one.what for one in (await at.box.health()).problems)

        at.is_mended = True
        (letter,) = await at.box.dead_letters.list()
        await at.box.dead_letters.replay(letter.id, by="ann")
        await at.happenings.until(MessageHandled, len(others) + BEHIND)
        await wait_until(lambda: at.held(0), WITHIN, what="an empty hold")

    assert at.of(POISON) == list(range(BEHIND))


@pytest.mark.parametrize("verb", ["discard", "skip", "release"])
async def test_whatever_is_decided_about_its_head_a_full_key_goes_on_in_order(verb: str) -> None:
    at = Service("transaction", "database://")
    async with at.box.running():
        await at.fill()
        await publish(at.box, *(OrderPlaced(POISON, number) for number in range(CAP + 1, 50)))
        await at.happenings.until(HeldKeyFull)
        await decide(at.box, verb)
        await at.happenings.until(MessageHandled, 49)

    assert at.of(POISON) == list(range(1, 50))


async def decide(box: Pillarbox, verb: str) -> None:
    """Have the key go on without its head."""
    (letter,) = await box.dead_letters.list()
    (held,) = await box.held.list()
    match verb:
        case "discard":
            await box.dead_letters.discard(letter.id, by="ann", reason="a test order")
        case "skip":
            await box.held.skip(held.consumer, held.hold_key, by="ann", reason="a test order")
        case _:
            await box.held.release(held.consumer, held.hold_key, by="ann", reason="a test order")


async def test_a_consumer_that_is_alone_leaves_the_rest_of_all_keys_to_its_channel() -> None:
    """They have one order, so one hold."""
    at = Service("transaction", "database://", is_alone=True)
    async with at.box.running():
        await at.fill()
        await publish(at.box, *(OrderPlaced(key, number) for number in range(EACH) for key in OTHERS))
        await at.happenings.until(HeldKeyFull)
        assert (await at.held(CAP), at.handled) == (True, [])

        at.is_mended = True
        (letter,) = await at.box.dead_letters.list()
        await at.box.dead_letters.replay(letter.id, by="ann")
        await at.happenings.until(MessageHandled, 1 + CAP + EACH * len(OTHERS))

    expected = [(POISON, number) for number in range(CAP + 1)]
    assert at.handled == [*expected, *((key, number) for number in range(EACH) for key in OTHERS)]


@pytest.mark.parametrize("max_held", [0, -1])
def test_a_limit_that_leaves_no_room_is_refused(max_held: int) -> None:
    with pytest.raises(ConfigurationError, match=r"max_held must be a whole number of at least 1"):
        Settings(max_held=max_held)


OPTIONS = {"kafka": "?partitions=2&heartbeat.interval.ms=100&session.timeout.ms=6000&drain=2"}
ORDERS = 50


@pytest.mark.server
@pytest.mark.parametrize("broker", effort.of(["database", "redis", "kafka", "nats", "rabbitmq"], ["database", "redis"]))
async def test_killed_consumers_lose_nothing_of_a_full_key(
    broker: str, request: pytest.FixtureRequest, postgresql_url: str, python_processes: PythonProcesses
) -> None:
    """One is killed while the channel keeps the rest, another while the key is drained."""
    server = None if broker == "database" else request.getfixturevalue(f"{broker}_server")
    broker_url = "database://" if server is None else server.url + OPTIONS.get(broker, "")
    name = uuid4().hex[:8]
    orders = orders_of(f"order-{name}")
    box = full_key_box(postgresql_url, broker_url, f"shop-{name}", orders, is_mended=False)

    def start(state: str) -> PythonProcess:
        return python_processes.start(
            "tests.integration.full_key_worker", postgresql_url, broker_url, f"shop-{name}", f"order-{name}", state
        )

    async def is_held(count: int) -> bool:
        return (await box.health()).vitals.holding.messages == count

    async with full_key_box(postgresql_url, broker_url, f"shop-{name}", orders, is_mended=False).running() as known:
        await create_tables(known)  # and the broker knows the consumer
    async with box.running(consumers=False):
        worker = start("broken")
        await publish(box, *(orders(POISON, number) for number in range(CAP + 1)))
        await wait_until(lambda: is_held(CAP), WITHIN, what="a full key")
        others = [(f"o-{number % 5}", number // 5) for number in range(ORDERS)]
        for number in range(CAP + 1, ORDERS):
            await publish(box, orders(POISON, number), orders(*others[number - CAP - 1]))
        await publish(box, *(orders(*one) for one in others[ORDERS - CAP - 1 :]))
        await wait_until(has_noted(box, ORDERS), WITHIN, what="the orders of all other keys")
        assert await is_held(CAP)

        worker.kill()
        worker = start("broken")
        await publish(box, *(orders("late", number) for number in range(5)))
        await wait_until(has_noted(box, ORDERS + 5), WITHIN, what="orders that came later")
        assert await is_held(CAP)

        worker.kill()
        worker = start("mended")
        (letter,) = await box.dead_letters.list()
        await box.dead_letters.replay(letter.id, by="ann")
        await wait_until(has_noted(box, ORDERS + 5 + CAP), WITHIN, what="the first of the key")
        worker.kill()
        start("mended")
        await wait_until(has_noted(box, 2 * ORDERS + 5), WITHIN, what="all of the key")
        await wait_until(lambda: is_held(0), WITHIN, what="an empty hold")
        effects = by_key(await noted(box))

    assert effects == {
        POISON: list(range(ORDERS)),
        "late": list(range(5)),
        **{f"o-{key}": list(range(ORDERS // 5)) for key in range(5)},
    }
