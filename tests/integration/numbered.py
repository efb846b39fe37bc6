"""Numbered messages in tests: a type that bears numbers, and messages as a producer would have published them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import BySequence, Context, GapPolicy, Pillarbox, Retry, Settings, event
from pillarbox.app.membership import membership_of
from pillarbox.channel import Outcome, Subscription
from pillarbox.consumer.drainer import Drainer
from pillarbox.consumer.gap_watch import GapWatch
from pillarbox.consumer.worker import ConsumerWorker
from pillarbox.message import Message, Number
from pillarbox.ordering import RunSize
from tests.integration.boxes import Happenings, create_tables, make_box, note, noted
from tests.waiting import wait_until

CHANNEL, KEY, CONSUMER = "topic:meter", "m-1", "shop/post"
EPOCH = 7
PATIENT = BySequence(gap=GapPolicy(wait=timedelta(minutes=5)), start="first")


@event("meter.read", key="meter", numbered=True)
@dataclass(frozen=True)
class MeterRead:
    """A reading."""

    meter: str
    value: int


def reading(number: int, *, key: str = KEY, epoch: int = EPOCH, identity: str = "") -> Message:
    """Return the message with a number, whose value is that number."""
    return Message(
        id=identity or f"{key}-{epoch}-{number}",
        type="meter.read",
        destination=CHANNEL,
        key=key,
        content_type="application/json",
        headers={"source": "shop", "schemaversion": "1", **Number(epoch, number).headers},
        body=json.dumps({"meter": key, "value": number}).encode(),
    )


def box_of_readings(
    url: str,
    rule: BySequence = PATIENT,
    *,
    fails: dict[int, int] | None = None,
    retry: Retry | None = None,
    settings: Settings | None = None,
    called: list[str] | None = None,
    **options: object,
) -> tuple[Pillarbox, Happenings]:
    """Return a box whose consumer notes each reading.

    Args:
        url: where its store is.
        rule: its order.
        fails: how often the handler of a value fails.
        retry: how failures are retried.
        settings: those of the box.
        called: where a handler without a transaction notes what it handles; the handler has one unless this is given.
        options: of the consumer.
    """
    box, happenings = make_box(url, settings=settings) if settings is not None else make_box(url)
    failing = dict(fails or {})

    def fail(read: MeterRead) -> None:
        if failing.get(read.value, 0) > 0:
            failing[read.value] -= 1
            raise RuntimeError(f"a bad day for {read.value}")

    on = partial(box.on, MeterRead, name="post", ordering=rule, retry=retry or Retry(), **options)  # type: ignore[arg-type]
    if called is None:

        @on()
        async def post(read: MeterRead, tx: AsyncConnection, ctx: Context) -> None:
            fail(read)
            await note(tx, f"{read.meter}/{read.value}")
    else:
        notes = called

        @on(idempotency="inbox", outside=True)
        async def call(read: MeterRead) -> None:
            fail(read)
            notes.append(f"{read.meter}/{read.value}")

    return box, happenings


async def deliver(box: Pillarbox, messages: Sequence[Message]) -> None:
    """Put messages into the consumer's queue in the order given, one transaction each hundred."""
    for start in range(0, len(messages), 100):
        await box.store.run(box.store.queue.enqueue(messages[start : start + 100]))


class Hands:
    """One process of the consumer of readings, whose rounds a test takes by hand."""

    def __init__(self, box: Pillarbox, happenings: Happenings) -> None:
        self.box, self.happenings = box, happenings
        parts = box._parts()
        (consumer,) = box.consumers()
        worker, drainer, watch = parts.consumer_workers(consumer)
        assert isinstance(worker, ConsumerWorker)
        assert isinstance(drainer, Drainer)
        assert isinstance(watch, GapWatch)
        self.worker, self.drainer, self.watch = worker, drainer, watch
        self.membership = membership_of(parts)

    async def begin(self) -> None:
        """Create the tables and take part."""
        await create_tables(self.box)
        await self.box.broker.declare([Subscription(consumer=CONSUMER, channels=(CHANNEL,))])
        await self.membership.round()

    async def receive(self, limit: int = 100) -> bool:
        """Receive what waits in the queue and handle it; return whether there was anything."""
        deliveries = await self.worker._receiver.receive(limit, within=timedelta(0))
        items = [self.worker._item(one) for one in deliveries]
        if items:
            await self.worker._process.handle(items, intake=self.worker._intake, size=RunSize(largest=limit))
            taken = [one for one in items if not one.returned]
            returned = [one.delivery for one in items if one.returned and one.delivery is not None]
            await self.worker._receiver.settle([one.delivery for one in taken if one.delivery], Outcome.ACCEPTED)
            await self.worker._receiver.settle(returned, Outcome.RETURNED)
        return bool(items)

    async def work(self) -> list[str]:
        """Receive once and drain until nothing is due; return what was noted in all."""
        await self.receive()
        return await self.drain()

    async def drain(self) -> list[str]:
        """Drain until nothing is due; return what was noted in all."""
        while await self.drainer.round():
            pass
        return await noted(self.box)

    async def arrive(self, *messages: Message) -> list[str]:
        """Have ``messages`` delivered, in this order, and handled as far as they may be."""
        await deliver(self.box, messages)
        return await self.work()

    async def early(self) -> int:
        """Count what waits early."""
        return (await self.box.store.run(self.box.store.gaps.state())).buffered

    async def dead(self) -> list[tuple[str, str]]:
        """Return ids and reasons of the dead letters."""
        return [(one.message.id, one.reason) for one in await self.box.dead_letters.list()]


def values(*numbers: int, key: str = KEY) -> list[str]:
    """Return what the consumer notes of readings."""
    return [f"{key}/{number}" for number in numbers]


async def until_noted(box: Pillarbox, count: int, within: timedelta = timedelta(seconds=20)) -> list[str]:
    """Wait until ``count`` readings were handled; return all that were."""

    async def enough() -> bool:
        return len(await noted(box)) >= count

    await wait_until(enough, within)
    return await noted(box)
