"""A worker whose receiver, or something around its runs, goes wrong: nothing is lost, and each key keeps its order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from pillarbox.brokers.memory import MemoryBroker
from pillarbox.channel import Delivery, MessageReceiver, Outcome, Subscription
from pillarbox.channel.delivery import PutAside
from pillarbox.consumer import Consumer, Handlers
from pillarbox.consumer.dependency import NOTHING, Needs, Probe
from pillarbox.consumer.intake import Intake
from pillarbox.consumer.item import Item
from pillarbox.consumer.resolve import resolve
from pillarbox.consumer.stopping import StoppedByDeadLetter
from pillarbox.consumer.surroundings import Surroundings
from pillarbox.consumer.worker import ConsumerWorker, Handles
from pillarbox.observe import Event, Observer, WorkerFaltered
from pillarbox.ordering import ByKey, BySequence, Ordering, RunSize, lane_of
from pillarbox.retry import Circuit, GiveUp
from pillarbox.testing import VirtualClock
from tests.messages import message
from tests.unit.consumer.scripted import IntakeNotes, ids
from tests.unit.consumer.test_process import Steps
from tests.unit.consumer.test_resolve import OrderPlaced, call_outside

if TYPE_CHECKING:
    from pillarbox.message import Message

PATIENCE_S = 5
TURN = timedelta(milliseconds=50)


class Noting(Observer):
    """What is told."""

    def __init__(self) -> None:
        self.faltered: list[str] = []

    def notice(self, event: Event, /) -> None:
        if isinstance(event, WorkerFaltered):
            self.faltered.append(event.error)


class Frail(MessageReceiver):
    """A receiver that fails once when it is told to, in words that nobody has translated.

    What comes with a ``slow`` message is read, but does not arrive before its time.
    """

    def __init__(self, inner: MessageReceiver) -> None:
        self._inner = inner
        self.fails = False
        self.slow = set[str]()
        self.is_read, self.arrival = asyncio.Event(), asyncio.Event()
        self.put_aside: dict[str, PutAside] = {}

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        if self.fails:
            self.fails = False
            raise RuntimeError("cannot execute UPDATE in a read-only transaction")
        came = await self._inner.receive(limit, within=within)
        if any(one.message.id in self.slow for one in came):
            self.is_read.set()
            await self.arrival.wait()
        return [structs.replace(one, put_aside=self.put_aside.get(one.message.id)) for one in came]

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        await self._inner.settle(deliveries, outcome)

    async def close(self) -> None:
        await self._inner.close()


class Gated(Handles):
    """Handles nothing of a key that is closed, and notes what it has begun and what it has ended."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.closed: dict[str | None, asyncio.Event] = {}

    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        self.begun += ids(items)
        if (gate := self.closed.get(items[0].message.key)) is not None:
            await gate.wait()
        self.ended += ids(items)
        return len(items)


class Refusing(Gated):
    """Has no room for so many messages of a key, one after the other, as ``refuses`` says."""

    def __init__(self, **refuses: int) -> None:
        super().__init__()
        self.refuses = refuses

    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        self.begun += ids(items)
        if (gate := self.closed.get(items[0].message.key)) is not None:
            await gate.wait()
        for one in items:
            one.returned = self.refuses.get(one.message.key or "", 0) > 0
            if one.returned:
                self.refuses[one.message.key or ""] -= 1
            else:
                self.ended.append(one.message.id)
        return 0


class Resequencing(Gated):
    """Has no room for anything until ``m1`` came."""

    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        self.begun += ids(items)
        for one in items:
            one.returned = one.message.id != "m1" and "m1" not in self.ended
            self.ended += [] if one.returned else [one.message.id]
        return 0


class Stopping(Gated):
    """Has no room for ``m1``, handles ``m2`` and is stopped then."""

    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        await super().handle(items, intake=intake, size=size)
        items[0].returned = True
        raise StoppedByDeadLetter("shop/note", items[2:])


class Giving(Gated):
    """Notes the verdict that each message came with, its attempts, and the error."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up: dict[str, tuple[object, int, str] | None] = {}

    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        for item in items:
            told = (item.verdict, item.attempts, type(item.error).__name__)
            self.given_up[item.message.id] = None if item.verdict is None else told
        return await super().handle(items, intake=intake, size=size)


class Scene:
    """A worker of two lanes and what it works with."""

    def __init__(
        self,
        process: Gated | None = None,
        *,
        run_size: int = 1,
        ordering: Ordering | None = None,
        needs: Needs = NOTHING,
    ) -> None:
        self.clock = VirtualClock(autojump=True)
        self.told = Noting()
        self.process = process or Gated()
        self.spoils_hint = False
        handlers = Handlers()
        handlers.on(OrderPlaced, name="note", outside=True, concurrency=2)(call_outside)
        consumer: Consumer
        (consumer,) = resolve(handlers.declarations, service="shop", provided={}, names_required=False)
        consumer = replace(consumer, options=replace(consumer.options, ordering=ordering or ByKey()))
        self._broker = MemoryBroker(clock=self.clock)
        self._subscription = Subscription(consumer=consumer.identity, channels=consumer.channels)
        self.receiver = Frail(self._broker.receiver(self._subscription, owner="w1"))
        around = Surroundings(
            source=Steps(),
            clock=self.clock,
            observer=self.told,
            worker="w1",
            new_token=lambda: "t1",
            on_published=self._hint,
            run_size=run_size,
            needs=needs,
        )
        self.worker = ConsumerWorker(
            consumer, receiver=self.receiver, process=self.process, intake=IntakeNotes(), around=around
        )

    async def send(self, *messages: Message) -> None:
        """Put messages into the consumer's channel."""
        await self._broker.declare([self._subscription])
        await self._broker.send(messages)

    async def left(self) -> list[str]:
        """The ids of what the channel still has."""
        receiver = self._broker.receiver(self._subscription, owner="w2")
        return [one.message.id for one in await receiver.receive(100, within=timedelta(0))]

    async def until(self, *, begun: Sequence[str] = (), ended: Sequence[str] = ()) -> None:
        """Give the worker turns until it has begun and ended so much."""
        async with asyncio.timeout(PATIENCE_S):
            while not {*begun} <= {*self.process.begun} or not {*ended} <= {*self.process.ended}:
                await self.clock.sleep(TURN)

    def _hint(self) -> None:
        if self.spoils_hint:
            self.spoils_hint = False
            raise RuntimeError("the hint failed")


def in_lane(number: int) -> str:
    """A key of which the messages are in this lane."""
    return next(key for key in "abcdefgh" if lane_of(f"k:{key}", 2) == number)


def keys_in_lane(number: int) -> list[str]:
    """Two keys whose messages are in this lane."""
    return [key for key in "abcdefghijkl" if lane_of(f"k:{key}", 2) == number][:2]


async def test_an_error_of_the_receiver_leaves_what_is_under_way_alone() -> None:
    at = Scene()
    gate = at.process.closed["k"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(at.worker.run())
        await at.send(message("m1"), message("m2"))
        await at.until(begun=["m1"])
        at.receiver.fails = True
        while not at.told.faltered and not running.done():
            await at.clock.sleep(TURN)
        gate.set()
        await at.until(ended=["m1", "m2"])
        at.worker.stop()

    assert at.process.begun == at.process.ended == ["m1", "m2"]
    assert at.told.faltered == ["cannot execute UPDATE in a read-only transaction"]


async def test_a_worker_that_an_error_has_ended_begins_again_with_nothing_in_hand() -> None:
    """What was cut off comes again, before what is behind it in its key."""
    at = Scene()
    key, other = in_lane(0), in_lane(1)
    at.process.closed[key] = asyncio.Event()
    at.spoils_hint = True

    async with asyncio.TaskGroup() as group:
        first = group.create_task(_ended_by_an_error(at.worker))
        await at.send(message("m1", key=key), message("m2", key=key))
        await at.until(begun=["m1"])
        await at.send(message("n1", key=other))
        await first

    assert (at.process.begun, at.worker.in_hand) == (["m1", "n1"], 0)

    at.process.closed.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(at.worker.run())
        await at.until(ended=["m1", "m2"])
        at.worker.stop()
    assert at.process.begun == ["m1", "n1", "m1", "m2"]


async def test_what_its_broker_put_aside_is_given_up_before_it_is_handled() -> None:
    process = Giving()
    at = Scene(process)
    at.receiver.put_aside = {"m1": PutAside(reason="expired", place="topic:order/shop/note/3")}

    async with asyncio.TaskGroup() as group:
        group.create_task(at.worker.run())
        await at.send(message("m1", key=in_lane(0)), message("n1", key=in_lane(1)))
        await at.until(ended=["m1", "n1"])
        at.worker.stop()

    assert process.given_up["n1"] is None
    assert process.given_up["m1"] == (GiveUp("expired"), 0, "PermanentError")


async def test_what_there_is_no_room_for_goes_back_when_the_consumer_is_stopped() -> None:
    at = Scene(Stopping(), run_size=8)
    await at.send(message("m1"), message("m2"), message("m3"))

    await at.worker.run()

    assert at.process.begun == ["m1", "m2", "m3"]
    assert (await at.left(), at.worker.in_hand) == (["m1", "m3"], 0)


async def test_nothing_of_a_key_overtakes_what_there_was_no_room_for() -> None:
    """By the time it comes again there is room, and the lane had its followers all along."""
    at = Scene(Refusing(k=1))
    await at.send(*(message(f"m{number}") for number in range(1, 6)))
    async with asyncio.TaskGroup() as group:
        group.create_task(at.worker.run())
        await at.until(ended=["m5"])
        at.worker.stop()

    assert at.process.ended == [f"m{number}" for number in range(1, 6)]
    assert at.process.begun == ["m1", *at.process.ended]


async def test_what_was_being_read_does_not_overtake_what_there_was_no_room_for() -> None:
    at = Scene(Refusing(k=1))
    at.receiver.slow = {"m2"}
    gate = at.process.closed["k"] = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(at.worker.run())
        await at.send(message("m1"))
        await at.until(begun=["m1"])
        await at.send(message("m2"))
        await asyncio.wait_for(at.receiver.is_read.wait(), PATIENCE_S)
        gate.set()
        await at.clock.sleep(TURN)
        at.receiver.arrival.set()
        await at.until(ended=["m1", "m2"])
        at.worker.stop()

    assert at.process.ended == ["m1", "m2"]


async def test_other_keys_of_the_lane_go_on_while_there_is_no_room_for_one() -> None:
    """However many of the full one are before them, and however small the runs are."""
    full, other = keys_in_lane(0)
    process = Refusing(**{full: 10_000})
    at = Scene(process, run_size=2)
    fulls = [f"m{number}" for number in range(1, 8)]
    others = [f"n{number}" for number in range(1, 8)]
    await at.send(*(message(one, key=full) for one in fulls), *(message(one, key=other) for one in others))
    async with asyncio.TaskGroup() as group:
        group.create_task(at.worker.run())
        await at.until(ended=others)
        assert process.ended == others
        process.refuses[full] = 0
        await at.until(ended=fulls)
        at.worker.stop()

    assert process.ended == [*others, *fulls]


async def test_a_number_that_all_wait_for_is_reached_behind_those_that_there_is_no_room_for() -> None:
    """Numbers tell the order, so nothing goes back with those that were refused."""
    at = Scene(Resequencing(), run_size=2, ordering=BySequence())
    await at.send(*(message(f"m{number}") for number in (2, 3, 4, 5, 6, 1)))
    async with asyncio.TaskGroup() as group:
        group.create_task(at.worker.run())
        await at.until(ended=[f"m{number}" for number in range(1, 7)])
        at.worker.stop()

    assert sorted(at.process.ended) == [f"m{number}" for number in range(1, 7)]


class Down(Needs):
    """A dependency that is down until a handler was called with a probe."""

    is_up = False

    @property
    def is_shut(self) -> bool:
        return not self.is_up

    async def probe(self) -> Probe | None:
        return Probe(circuit=Circuit())

    async def settle(self, probe: Probe | None) -> None:
        self.is_up = self.is_up or (probe is not None and probe.answer is True)


class Probing(Refusing):
    """Calls for what it has room for."""

    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        published = await super().handle(items, intake=intake, size=size)
        for one in items:
            if one.probe is not None and not one.returned:
                one.probe.answer = True
        return published


async def test_a_dependency_is_probed_by_another_key_where_there_is_no_room_for_the_first() -> None:
    """Else the consumer would wait for a message that nobody is called with."""
    at = Scene(Probing(a=10_000, b=10_000), needs=Down(), run_size=8)
    await at.send(*(message(f"{key}{number}", key=key) for key in "abk" for number in range(1, 4)))
    async with asyncio.TaskGroup() as group:
        group.create_task(at.worker.run())
        await at.until(ended=["k1", "k2", "k3"])
        at.worker.stop()

    assert at.process.ended == ["k1", "k2", "k3"]


async def _ended_by_an_error(worker: ConsumerWorker) -> None:
    with pytest.raises(ExceptionGroup):
        await worker.run()
