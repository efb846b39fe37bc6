"""A loop that ends as cancelled, and nobody cancelled it, is told of and begins again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pillarbox.app.running import PAUSE_BEFORE_RESTART, OnceDeclared, Running
from pillarbox.channel import Delivery, MessageReceiver, Outcome
from pillarbox.consumer.injection import signature_of
from pillarbox.consumer.intermittent import Intermittent
from pillarbox.consumer.item import Item
from pillarbox.consumer.spec import Consumer, ConsumerOptions
from pillarbox.consumer.surroundings import Surroundings
from pillarbox.consumer.worker import ConsumerWorker, Handles
from pillarbox.observe import Event, Observer, WorkerFaltered
from pillarbox.testing import VirtualClock
from tests.messages import message
from tests.unit.consumer.scripted import stage
from tests.unit.consumer.test_process import Steps

if TYPE_CHECKING:
    from pillarbox.consumer.intake import Intake
    from pillarbox.ordering import RunSize
    from pillarbox.rounds import Loop as AnyLoop

SOON_S = 5


class Faults(Observer):
    """The faults that were told of."""

    def __init__(self) -> None:
        self.told: list[WorkerFaltered] = []

    def notice(self, event: Event, /) -> None:
        if isinstance(event, WorkerFaltered):
            self.told.append(event)


class Loop:
    """A loop that is cancelled the first time by something that it awaited."""

    def __init__(self) -> None:
        self.runs = 0
        self.goes_on = asyncio.Event()
        self._over = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self.runs == 1:
            raise asyncio.CancelledError
        self.goes_on.set()
        await self._over.wait()

    def stop(self) -> None:
        self._over.set()


async def always() -> bool:
    return True


@pytest.mark.parametrize("name", ["Loop", "Intermittent"])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_worker_that_nobody_cancelled_is_told_of_and_begins_again(name: str, waits: bool) -> None:
    clock, faults, loop = VirtualClock(autojump=True), Faults(), Loop()
    worker: AnyLoop = loop
    if name == "Intermittent":
        worker = Intermittent(lambda: [loop], may_work=always, every=timedelta(seconds=9), clock=clock)
    if waits:
        worker = OnceDeclared(worker, is_declared=lambda: True, clock=clock)
    running = Running([worker], clock=clock, observer=faults)

    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        group.create_task(running.run())
        await loop.goes_on.wait()
        running.stop()

    assert [(fault.worker, fault.retry_after) for fault in faults.told] == [(name, PAUSE_BEFORE_RESTART)]


async def test_a_worker_that_is_cancelled_ends() -> None:
    clock, faults, loop = VirtualClock(), Faults(), Loop()
    loop.runs = 1
    running = Running([loop], clock=clock, observer=faults)

    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        task = group.create_task(running.run())
        await loop.goes_on.wait()
        task.cancel()

    assert task.cancelled()
    assert not faults.told


async def test_a_loop_of_a_consumer_begins_once_its_messages_come() -> None:
    clock, loop, answers = VirtualClock(autojump=True), Loop(), iter([False, False, True])
    loop.runs = 1
    waiting = OnceDeclared(loop, is_declared=lambda: next(answers), clock=clock)

    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        group.create_task(waiting.run())
        await loop.goes_on.wait()
        waiting.stop()

    assert not list(answers), "it has looked until it was so"


async def test_a_loop_whose_messages_never_come_can_be_stopped() -> None:
    clock, loop = VirtualClock(), Loop()
    loop.runs = 1
    waiting = OnceDeclared(loop, is_declared=lambda: False, clock=clock)

    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        group.create_task(waiting.run())
        await asyncio.sleep(0)
        waiting.stop()


class Channel(MessageReceiver):
    """Delivers one message, and again for as long as it is given back."""

    def __init__(self, clock: VirtualClock) -> None:
        self.waiting = [Delivery(message=message(), receipt=1)]
        self.outcomes: list[Outcome] = []
        self.accepted = asyncio.Event()
        self._clock = clock

    async def receive(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        await self._clock.sleep(within)
        handed_out, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return handed_out

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        self.outcomes += [outcome] * len(deliveries)
        if outcome is Outcome.RETURNED:
            self.waiting += deliveries
        elif deliveries:
            self.accepted.set()

    async def close(self) -> None:
        """Do nothing."""


class Cancelled(Handles):
    """Is cancelled at the first message by something that it awaited."""

    def __init__(self) -> None:
        self.calls = 0

    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        self.calls += 1
        if self.calls == 1:
            raise asyncio.CancelledError
        return 0


async def test_a_lane_that_nobody_cancelled_is_told_of_and_goes_on() -> None:
    async def handle(order: object) -> None:
        """Nobody calls it."""

    clock, faults = VirtualClock(autojump=True), Faults()
    channel = Channel(clock)
    consumer = Consumer(
        identity="shop/handle",
        handler=handle,
        signature=signature_of(handle, owner="handle"),
        options=ConsumerOptions(),
        channels=("topic:order",),
        message_types=frozenset({"order.placed"}),
    )
    around = Surroundings(
        source=Steps(),
        clock=clock,
        observer=faults,
        worker="w",
        new_token=lambda: "t",
        on_published=lambda: None,
    )
    worker = ConsumerWorker(consumer, receiver=channel, process=Cancelled(), intake=stage().intake, around=around)

    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        await channel.accepted.wait()
        worker.stop()

    assert (channel.outcomes[0], channel.outcomes[-1]) == (Outcome.RETURNED, Outcome.ACCEPTED)
    assert [fault.worker for fault in faults.told] == ["shop/handle"]
