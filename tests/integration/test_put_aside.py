"""Messages that a broker put aside are dead letters of their consumer, whatever its kind."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import BySequence, Causal, DeadLetterFilter, GapPolicy, Pillarbox, SingleConsumer, Unordered
from pillarbox.app.system_clock import SystemClock
from pillarbox.brokers.memory import MemoryBroker
from pillarbox.brokers.memory.broker import MemoryReceiver
from pillarbox.channel import Delivery, MessageReceiver, Subscription
from pillarbox.channel.delivery import PutAside
from pillarbox.deadletter import DeadLetterState
from pillarbox.observe import ConsumerStopped, DuplicateSuppressed, MessageDead, MessageDiscarded
from tests.integration.boxes import SETTINGS, Happenings, OrderPlaced
from tests.integration.numbered import MeterRead, reading
from tests.messages import message
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillarbox.message import Message

WITHIN = timedelta(seconds=20)
PLACE = "topic:order/shop/reserve/3"
EXPIRED = PutAside(reason="expired", place=PLACE)


class PuttingAside(MemoryBroker):
    """A broker that puts aside the messages of these ids, and tells why."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock())
        self.put_aside: dict[str, PutAside] = {}

    def receiver(self, subscription: Subscription, *, owner: str) -> MessageReceiver:
        return Telling(self, subscription, clock=SystemClock())


class Telling(MemoryReceiver):
    """A receiver of what was put aside as of all else."""

    _broker: PuttingAside

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        came = await super().receive(limit, within=min(within, timedelta(milliseconds=20)))
        return [structs.replace(one, put_aside=self._broker.put_aside.get(one.message.id)) for one in came]


class Scene:
    """A box on such a broker."""

    def __init__(self, url: str = "memory://") -> None:
        self.broker = PuttingAside()
        self.box = Pillarbox("shop", store=url, broker=self.broker, settings=SETTINGS)
        self.happenings = Happenings()
        self.box.observe(self.happenings)
        self.handled: list[str] = []

    async def deliver(self, *messages: Message, put_aside: Sequence[str] = ()) -> None:
        """Send messages, of which some come as put aside."""
        self.broker.put_aside = dict.fromkeys(put_aside, EXPIRED)
        await self.broker.send(messages)

    async def until_handled(self, *orders: str) -> None:
        """Wait until the handler was called for these, in this order, and for no others."""
        await wait_until(lambda: len(self.handled) >= len(orders), WITHIN, what=f"{orders}, not {self.handled}")
        assert self.handled == list(orders)


def order(identity: str, *, key: str) -> Message:
    body = b'{"order_id": "%s"}' % identity.encode()
    return structs.replace(message(identity, key=key), body=body, headers={"source": "shop", "x-mine": "näive"})


def in_a_transaction(at: Scene) -> Callable[..., Any]:
    async def handle(placed: OrderPlaced, tx: AsyncConnection) -> None:
        at.handled.append(placed.order_id)

    return handle


def in_a_thread(at: Scene) -> Callable[..., Any]:
    def handle(placed: OrderPlaced, tx: Connection) -> None:
        at.handled.append(placed.order_id)

    return handle


def outside(at: Scene) -> Callable[..., Any]:
    async def handle(placed: OrderPlaced) -> None:
        at.handled.append(placed.order_id)

    return handle


def of_batches(at: Scene) -> Callable[..., Any]:
    async def handle(placed: list[OrderPlaced], tx: AsyncConnection) -> None:
        at.handled.extend(one.order_id for one in placed)

    return handle


KEY_WAITS, NONE_WAITS, ALL_WAIT = ["n1"], ["m2", "n1"], list[str]()


@pytest.mark.parametrize(
    ("handler", "options", "others"),
    [
        (in_a_transaction, {}, KEY_WAITS),
        (in_a_thread, {}, KEY_WAITS),
        (in_a_transaction, {"when_dead": "skip"}, NONE_WAITS),
        (in_a_transaction, {"ordering": Unordered()}, NONE_WAITS),
        (in_a_transaction, {"ordering": SingleConsumer()}, ALL_WAIT),
        (in_a_transaction, {"ordering": Causal()}, KEY_WAITS),
        (in_a_transaction, {"dedupe_by": "order_id"}, KEY_WAITS),
        (of_batches, {"batch": 10}, KEY_WAITS),
        (outside, {"outside": True, "idempotency": "inbox"}, KEY_WAITS),
        (outside, {"outside": True, "idempotency": "inbox", "dedupe_by": "order_id"}, KEY_WAITS),
        (outside, {"idempotency": "natural"}, KEY_WAITS),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
async def test_what_a_broker_put_aside_is_buried_and_not_handled(
    handler: Callable[[Scene], Callable[..., Any]], options: dict[str, Any], others: list[str]
) -> None:
    at = Scene()
    at.box.on(OrderPlaced, name="reserve", **options)(handler(at))
    sent = order("m1", key="k")

    async with at.box.running():
        await at.deliver(sent, order("m2", key="k"), order("n1", key="other"), put_aside=["m1"])
        await at.happenings.until(MessageDead)
        await wait_until(lambda: len(at.handled) >= len(others), WITHIN, what="the others")
        (letter,) = await at.box.dead_letters.list()
        assert (letter.message, letter.consumer) == (sent, "shop/reserve")
        assert (letter.reason, letter.attempts, letter.error_type) == ("expired", 0, "PermanentError")
        assert PLACE in letter.error
        assert sorted(at.handled) == others

        await at.box.dead_letters.replay(letter.id, by="ann")
        await wait_until(lambda: len(at.handled) >= 3, WITHIN, what="the replay")
        assert sorted(at.handled) == ["m1", "m2", "n1"]
        assert "m2" in others or at.handled.index("m1") < at.handled.index("m2")

        async def is_resolved() -> bool:
            return bool(await at.box.dead_letters.list(DeadLetterFilter(state=DeadLetterState.RESOLVED)))

        await wait_until(is_resolved, WITHIN, what="the letter's end")


@pytest.mark.parametrize("mode", ["in a transaction", "outside"])
async def test_a_number_that_was_put_aside_keeps_those_behind_it_waiting(mode: str) -> None:
    at = Scene()
    rule = BySequence(gap=GapPolicy(wait=timedelta(minutes=5)), start="first")
    if mode == "outside":

        @at.box.on(MeterRead, name="post", ordering=rule, outside=True, idempotency="inbox")
        async def post_outside(read: MeterRead) -> None:
            at.handled.append(str(read.value))

    else:

        @at.box.on(MeterRead, name="post", ordering=rule)
        async def post(read: MeterRead, tx: AsyncConnection) -> None:
            at.handled.append(str(read.value))

    second = reading(2)
    async with at.box.running():
        await at.deliver(reading(1), second, reading(3), put_aside=[second.id])
        await at.happenings.until(MessageDead)
        (letter,) = await at.box.dead_letters.list()
        assert (letter.message, letter.reason) == (second, "expired")
        await at.until_handled("1")

        await at.box.dead_letters.replay(letter.id, by="ann")
        await at.until_handled("1", "2", "3")


@pytest.mark.parametrize("handler", [in_a_transaction, outside])
async def test_what_was_handled_before_it_was_put_aside_is_a_duplicate(handler: Callable[[Scene], Any]) -> None:
    at = Scene()
    at.box.on(OrderPlaced, name="reserve", outside=handler is outside)(handler(at))

    async with at.box.running():
        await at.deliver(order("m1", key="k"))
        await at.until_handled("m1")
        await at.deliver(order("m1", key="k"), put_aside=["m1"])
        await at.happenings.until(DuplicateSuppressed)

        assert await at.box.dead_letters.list() == ()


async def test_what_was_put_aside_and_is_for_another_consumer_is_discarded() -> None:
    at = Scene()
    at.box.on(OrderPlaced, name="reserve")(in_a_transaction(at))

    async with at.box.running():
        await at.deliver(structs.replace(order("m1", key="k"), type="order.shipped"), put_aside=["m1"])
        await at.happenings.until(MessageDiscarded)

        assert await at.box.dead_letters.list() == ()


async def test_a_consumer_that_stops_at_a_dead_letter_stops_at_one_that_was_put_aside() -> None:
    at = Scene()
    at.box.on(OrderPlaced, name="reserve", when_dead="stop")(in_a_transaction(at))

    async with at.box.running():
        await at.deliver(*(order(f"m{number}", key=f"k{number}") for number in range(3)), put_aside=["m1"])
        await at.happenings.until(ConsumerStopped)

        (letter,) = await at.box.dead_letters.list()
        assert letter.message.id == "m1"
        await at.box.dead_letters.replay(letter.id, by="ann")
        await wait_until(lambda: len(at.handled) == 3, WITHIN, what="all of them")


async def test_each_reason_is_a_group_of_its_own_whatever_the_partition() -> None:
    at = Scene()
    at.box.on(OrderPlaced, name="reserve", when_dead="skip")(in_a_transaction(at))
    put_aside = {
        f"m{number}": PutAside(reason=reason, place=f"topic:order/shop/reserve/{number}")
        for number, reason in enumerate(["expired", "expired", "delivery_limit"])
    }

    async with at.box.running():
        at.broker.put_aside = put_aside
        await at.broker.send([order(identity, key=identity) for identity in put_aside])
        await at.happenings.until(MessageDead, 3)

        groups = await at.box.dead_letters.groups()
        assert sorted(group.dead for group in groups) == [1, 2]


async def test_what_was_put_aside_behind_a_held_key_waits_there() -> None:
    """All of a key may have expired: the first is the dead letter, and the others go on when that is replayed."""
    at = Scene()
    at.box.on(OrderPlaced, name="reserve")(in_a_transaction(at))
    names = [f"m{number}" for number in range(4)]

    async with at.box.running():
        await at.deliver(*(order(name, key="k") for name in names[:2]), put_aside=names)
        await at.happenings.until(MessageDead)
        await at.broker.send([order(name, key="k") for name in names[2:]])

        async def all_wait() -> bool:
            return (await at.box.store.run(at.box.store.holding.state())).messages == 3

        await wait_until(all_wait, WITHIN, what="what is behind")
        (letter,) = await at.box.dead_letters.list()
        await at.box.dead_letters.replay(letter.id, by="ann")
        await at.until_handled(*names)
