"""A consumer at work in one process: it receives, spreads keys over lanes, and drains what is held."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from pillarbox.channel import Delivery, MessageReceiver, Outcome
from pillarbox.channel.wakeup import Wakeup
from pillarbox.consumer.dependency import Probe
from pillarbox.consumer.intake import Intake
from pillarbox.consumer.item import Item
from pillarbox.consumer.stopping import StoppedByDeadLetter
from pillarbox.consumer.stray import failure_of
from pillarbox.consumer.surroundings import Surroundings
from pillarbox.deadletter.redaction import nothing_redacted
from pillarbox.errors import ConflictError, LeaseLostError, PermanentError, TransientError
from pillarbox.observe import WorkerFaltered
from pillarbox.ordering import RunSize, lane_of

if TYPE_CHECKING:
    from pillarbox.consumer.spec import Consumer

RECEIVE_WITHIN = timedelta(seconds=1)
AT_MOST = 4
"""So many times what is everybody's share is in hand at most, where much of it waits in few lanes."""
PAUSE_AFTER_TROUBLE = timedelta(milliseconds=200)
PROBE_WITHIN = timedelta(milliseconds=200)
"""How long a probe waits for its message: others who need the same, and what is held, wait meanwhile."""


class Handles(Protocol):
    """What a lane hands its messages to."""

    @abstractmethod
    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        """Bring ``items`` to a durable outcome; return how many messages were published."""


@dataclass(slots=True)
class Lane:
    """The messages of a bucket of keys, in the order they came.

    Attributes:
        generation: rises whenever the lane has given messages back; what was read before that is given back too.
        in_hand: how many messages it has that are not settled.
    """

    size: RunSize
    waiting: list[Item] = field(default_factory=list[Item])
    wakeup: Wakeup = field(default_factory=Wakeup)
    generation: int = 0
    in_hand: int = 0


class ConsumerWorker:
    """Receives for one consumer and handles in lanes."""

    def __init__(
        self,
        consumer: Consumer,
        *,
        receiver: MessageReceiver,
        process: Handles,
        intake: Intake,
        around: Surroundings,
    ) -> None:
        """Handle what ``receiver`` gives through ``process``."""
        self._consumer = consumer
        self._receiver = receiver
        self._process = process
        self._intake = intake
        self._clock = around.clock
        self._observer = around.observer
        self._on_published = around.on_published
        self._needs = around.needs
        self._lanes = [Lane(RunSize(largest=around.run_size)) for _ in range(consumer.lanes(around.lanes))]
        self._share = around.run_size * (2 if len(self._lanes) > 1 else 4)
        if consumer.options.is_alone:  # so little that its receiver has no reason to prefer one place to another
            self._share = around.run_size
        self._room = Wakeup()
        self._stopping = False
        self._passed_over = 0
        """How many probes in a row came to nothing, since there was no room for their message."""

    @property
    def in_hand(self) -> int:
        """How many messages were received and are not settled."""
        return sum(lane.in_hand for lane in self._lanes)

    def stop(self) -> None:
        """End ``run`` when the runs under way have their outcome; what only waits is given back."""
        self._stopping = True
        self._receiver.stop()
        self._room.ring()
        for lane in self._lanes:
            lane.wakeup.ring()

    async def run(self) -> None:
        """Receive and handle until ``stop``; after an error nothing is in hand, and ``run`` may be called again."""
        try:
            async with asyncio.TaskGroup() as group:
                for lane in self._lanes:
                    group.create_task(self._run_lane(lane))
                await self._receive()
        except Exception:
            self._forget()  # first: what was cut off comes again by the receiver, and nothing of its key before it
            await self._receiver.close()
            raise
        await self._receiver.close()

    def _forget(self) -> None:
        for lane in self._lanes:
            lane.waiting = []
            lane.generation += 1
            lane.in_hand = 0

    async def _receive(self) -> None:
        while not self._stopping:
            try:
                room = await self._receive_once()
            except (TransientError, ConflictError) as error:
                await self._falter(error)
            else:
                if room <= 0:
                    await self._room.wait(self._clock, PAUSE_AFTER_TROUBLE)

    async def _receive_once(self) -> int:
        """Receive as many messages as there is room for; return that room."""
        await self._needs.look()
        if self._needs.is_shut:
            return await self._receive_probe()
        room = max(self._room_left(), 0)
        generations = [lane.generation for lane in self._lanes]
        deliveries = await self._read(room, within=RECEIVE_WITHIN * (room > 0))
        await self._spread(deliveries, generations)
        return room

    async def _read(self, limit: int, *, within: timedelta) -> Sequence[Delivery]:
        """Read from the receiver; whatever goes wrong there is no reason to cut off the runs under way."""
        try:
            return await self._receiver.receive(limit, within=within)
        except Exception as error:
            await self._falter(error)
            return ()

    def _room_left(self) -> int:
        """Return for how many messages there is room: a lane that has more than its share takes it from no other."""
        within_shares = sum(max(self._share - lane.in_hand, 0) for lane in self._lanes)
        return min(within_shares, self._share * len(self._lanes) * AT_MOST - self.in_hand)

    async def _receive_probe(self) -> int:
        """Take one message in hand if it may find out whether what it needs is back; there is no room for others."""
        probe = None if self.in_hand else await self._needs.probe()
        generations = [lane.generation for lane in self._lanes]
        try:
            some = self._share if self._passed_over else 1
            deliveries = await self._read(some * (probe is not None), within=PROBE_WITHIN * (probe is not None))
        except BaseException:
            await self._needs.settle(probe)
            raise
        if deliveries:
            chosen = self._candidate(deliveries)
            await self._spread([chosen], generations, probe)
            if others := [one for one in deliveries if one is not chosen]:
                await self._receiver.settle(others, Outcome.RETURNED)
        elif probe is not None:
            await self._needs.settle(probe)
            await self._room.wait(self._clock, RECEIVE_WITHIN)  # somebody else may have a message for a probe
        return 0

    def _candidate(self, deliveries: Sequence[Delivery]) -> Delivery:
        """Choose the first message of some key: of another one each time that there was no room for the last."""
        firsts: dict[str, Delivery] = {}
        for one in deliveries:
            firsts.setdefault(self._consumer.lane_key_of(one.message), one)
        return list(firsts.values())[self._passed_over % len(firsts)]

    async def _spread(
        self, deliveries: Sequence[Delivery], generations: Sequence[int], probe: Probe | None = None
    ) -> None:
        """Put deliveries into their lanes; those read before their lane gave everything back would come too early."""
        early: list[Delivery] = []
        for delivery in deliveries:
            item = self._item(delivery)
            item.probe, probe = probe, None
            number = lane_of(self._consumer.lane_key_of(item.message), len(self._lanes))
            lane = self._lanes[number]
            if lane.generation != generations[number] or self._stopping:
                early.append(delivery)
                await self._end_probe([item])
                continue
            lane.waiting.append(item)
            lane.in_hand += 1
            lane.wakeup.ring()
        if early:
            await self._receiver.settle(early, Outcome.RETURNED)

    def _item(self, delivery: Delivery) -> Item:
        message = delivery.message
        item = Item(message=message, hold_key=self._consumer.hold_key_of(message), delivery=delivery)
        if (put_aside := delivery.put_aside) is not None:
            error = PermanentError(
                f"the broker put this message aside instead of delivering it from {put_aside.place!r}: "
                f"{put_aside.reason}; see to the limits that are set there, then replay it"
            )
            item.give_up(put_aside.reason, error, at=self._clock.now(), redact=nothing_redacted)
        return item

    async def _run_lane(self, lane: Lane) -> None:
        while not self._stopping:
            if not lane.waiting:
                await lane.wakeup.wait(self._clock, RECEIVE_WITHIN)
                continue
            if self._needs.is_shut and lane.waiting[0].probe is None:
                await self._give_back(lane, [])
                continue
            run = await self._next_run(lane)
            if not run:
                continue
            try:
                published = await self._process.handle(run, intake=self._intake, size=lane.size)
                done = [item for item in run if not item.is_left and not item.returned]
                await self._receiver.settle(_deliveries(done), Outcome.ACCEPTED)
            except StoppedByDeadLetter as stopped:
                await self._end(lane, run, stopped.undone)
            except (Exception, asyncio.CancelledError) as caught:
                error = failure_of(caught, of="a lane")  # before anything is awaited: it may have been asked for
                await self._give_back(lane, run)
                await self._falter(error)
            else:
                lane.in_hand -= len(done)
                self._room.ring()
                if published:
                    self._on_published()
                if len(done) < len(run):
                    await self._give_back_undone(lane, [item for item in run if item.is_left or item.returned])
            await self._end_probe(run)
        await self._give_back(lane, [])

    async def _next_run(self, lane: Lane) -> list[Item]:
        """Take the next messages of the lane; those lost meanwhile are somebody else's, or come again."""
        run, lane.waiting = lane.waiting[: lane.size.size], lane.waiting[lane.size.size :]
        deliveries = _deliveries(run)
        ours = self._receiver.still_ours(deliveries)
        if len(ours) == len(deliveries):
            return run
        kept = {id(one) for one in ours}
        lost = [item for item in run if id(item.delivery) not in kept]
        lane.in_hand -= len(lost)
        self._room.ring()
        await self._end_probe(lost)
        return [item for item in run if id(item.delivery) in kept]

    async def _give_back_undone(self, lane: Lane, undone: Sequence[Item]) -> None:
        """Return what was not called for or has no room; of the latter only its keys, not too often."""
        if any(item.is_left for item in undone):
            await self._give_back(lane, undone)
            return
        keys = {item.hold_key for item in undone} if self._consumer.options.keeps_arrival_order else set[str]()
        behind = [item for item in lane.waiting if item.hold_key in keys]
        lane.waiting = [item for item in lane.waiting if item.hold_key not in keys]
        await self._return(lane, [*undone, *behind])
        await self._clock.sleep(PAUSE_AFTER_TROUBLE)

    async def _end(self, lane: Lane, run: Sequence[Item], undone: Sequence[Item]) -> None:
        """Settle what of ``run`` is done, give the rest back and stop: the consumer is stopped in every process."""
        done = [item for item in run if item not in undone and not item.returned]
        rest = [item for item in run if item not in done]
        self.stop()
        lane.in_hand -= len(done)
        try:
            await self._receiver.settle(_deliveries(done), Outcome.ACCEPTED)
        except TransientError as error:
            await self._falter(error)
        await self._give_back(lane, rest)

    async def _give_back(self, lane: Lane, run: Sequence[Item]) -> None:
        """Return everything the lane has, so that what comes again comes in order."""
        items = [*run, *lane.waiting]
        lane.waiting = []
        await self._return(lane, items)

    async def _return(self, lane: Lane, items: Sequence[Item]) -> None:
        """Return ``items``, and what is being read for the lane, which would come before them."""
        lane.generation += 1
        lane.in_hand -= len(items)
        self._room.ring()
        try:
            await self._receiver.settle(_deliveries(items), Outcome.RETURNED)
        except TransientError as error:
            await self._falter(error)
        await self._end_probe(items)

    async def _end_probe(self, items: Sequence[Item]) -> None:
        """Tell what came of a probe that is among ``items``; if that cannot be told, its time runs out."""
        for item in items:
            if item.probe is None:
                continue
            probe, item.probe = item.probe, None
            self._passed_over = self._passed_over + 1 if item.returned else 0
            try:
                await self._needs.settle(probe)
            except (TransientError, ConflictError) as error:
                await self._falter(error)

    async def _falter(self, error: Exception) -> None:
        pause = timedelta(0) if isinstance(error, LeaseLostError) else PAUSE_AFTER_TROUBLE
        self._observer.notice(WorkerFaltered.by(error, worker=self._consumer.identity, retry_after=pause))
        await self._clock.sleep(pause)


def _deliveries(items: Sequence[Item]) -> list[Delivery]:
    return [item.delivery for item in items if item.delivery is not None]
