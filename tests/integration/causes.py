"""A consumer that keeps the order of causes, whose rounds a test takes by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Causal, Cause, Pillarbox, Retry, event
from pillarbox.consumer.drainer import Drainer
from pillarbox.consumer.item import Item
from pillarbox.consumer.worker import ConsumerWorker
from pillarbox.holding import channel_hold_key_of
from pillarbox.message import Message
from pillarbox.message.causes import pack_causes
from pillarbox.observe import CauseMissing, Event, Observer
from pillarbox.ordering import RunSize
from pillarbox.relational import RelationalStore
from pillarbox.relational.tables import held, holds, waits
from tests.integration.boxes import effects, note, tables

if TYPE_CHECKING:
    from pillarbox.consumer.spec import WhenDead

SERVICE, CONSUMER = "shop", "shop/follow"
STEPS, ECHOES = "topic:step", "topic:echo"
AT_ONCE = Retry(attempts=2, immediate=0, first=timedelta(0))


@event("step.taken", key="key")
@dataclass(frozen=True)
class StepTaken:
    """One kind of message that the consumer handles."""

    key: str
    name: str


@event("echo.heard", key="key")
@dataclass(frozen=True)
class EchoHeard:
    """Another one, of another topic."""

    key: str
    name: str


class BadDayError(Exception):
    """The handler has one."""


@dataclass(slots=True)
class Notices(Observer):
    """What happened."""

    events: list[Event] = field(default_factory=list[Event])

    def notice(self, event: Event, /) -> None:
        self.events.append(event)


def step(name: str, *causes: str, key: str | None = "k", topic: str = STEPS, others: Sequence[Cause] = ()) -> Message:
    """Return the message ``name``, which ``causes`` come before; a cause is of the topic that its name begins with."""
    kind = "step.taken" if topic == STEPS else "echo.heard"
    headers = {"source": SERVICE, "schemaversion": "1"}
    named = [*(Cause(one, "step.taken" if one[0] != "e" else "echo.heard", topic_of(one)) for one in causes), *others]
    if named:
        headers["causes"] = pack_causes(named)
    return Message(
        id=name,
        type=kind,
        destination=topic,
        key=key,
        content_type="application/json",
        headers=headers,
        body=f'{{"key": "{key}", "name": "{name}"}}'.encode(),
    )


def topic_of(name: str) -> str:
    """Return the topic of a message: names that begin with an e are echoes."""
    return ECHOES if name[0] == "e" else STEPS


@dataclass(slots=True)
class Followers:
    """One process of the consumer on ``store``."""

    store: RelationalStore
    ordering: Causal = field(default_factory=Causal)
    when_dead: WhenDead | None = None
    outside: bool = False
    dedupe_by: str | None = None
    bad: dict[str, int] = field(default_factory=dict[str, int])
    notices: Notices = field(default_factory=Notices)
    box: Pillarbox = field(init=False)
    worker: ConsumerWorker = field(init=False)
    drainer: Drainer = field(init=False)

    def __post_init__(self) -> None:
        self.box = Pillarbox(SERVICE, store=self.store, broker="memory://")
        self.box.observe(self.notices)
        box, bad = self.box, self.bad

        def have_a_bad_day(name: str) -> None:
            if bad.get(name, 0) > 0:
                bad[name] -= 1
                raise BadDayError(name)

        if self.outside:

            @box.on(
                *(StepTaken, EchoHeard),
                name="follow",
                ordering=self.ordering,
                when_dead=self.when_dead,
                retry=AT_ONCE,
                dedupe_by=self.dedupe_by,
                outside=True,
            )
            async def follow_outside(taken: StepTaken | EchoHeard) -> None:
                have_a_bad_day(taken.name)
                async with box.transaction() as tx:
                    await note(tx, taken.name)

        else:

            @box.on(
                *(StepTaken, EchoHeard),
                name="follow",
                ordering=self.ordering,
                when_dead=self.when_dead,
                retry=AT_ONCE,
                dedupe_by=self.dedupe_by,
            )
            async def follow(taken: StepTaken | EchoHeard, tx: AsyncConnection) -> None:
                await note(tx, taken.name)
                have_a_bad_day(taken.name)

        (consumer,) = self.box.consumers()
        worker, drainer = self.box._parts().consumer_workers(consumer)
        assert isinstance(worker, ConsumerWorker)
        assert isinstance(drainer, Drainer)
        self.worker, self.drainer = worker, drainer

    async def open(self) -> None:
        """Create what is not there."""
        await self.store.migrate()
        async with self.store.begin() as transaction:
            await transaction.connection.run_sync(tables.create_all)

    async def arrive(self, *messages: Message) -> None:
        """Handle ``messages`` in one run, as if a channel delivered them."""
        items = [Item(message=one, hold_key=channel_hold_key_of(one)) for one in messages]
        await self.worker._process.handle(items, intake=self.worker._intake, size=RunSize(largest=100))

    async def drain(self) -> int:
        """Drain what is due, and what that makes due; return how many rounds there were."""
        rounds = 0
        while await self.drainer.round():
            rounds += 1
            assert rounds < 500, "it goes round and round"
        return rounds

    async def handled(self) -> list[str]:
        """What was handled, in order."""
        async with self.store.begin() as transaction:
            rows = await transaction.connection.execute(select(effects.c.what).order_by(effects.c.number))
            return [row[0] for row in rows]

    async def waiting(self) -> dict[str, set[str]]:
        """What waits for what."""
        async with self.store.begin() as transaction:
            rows = (await transaction.connection.execute(select(waits.c.message_id, waits.c.cause_id))).all()
        found: dict[str, set[str]] = {}
        for message_id, cause in rows:
            found.setdefault(message_id, set()).add(cause)
        return found

    def told_of(self, trouble: str) -> set[str]:
        """The messages of which such a trouble was told."""
        return {
            one.message_id for one in self.notices.events if isinstance(one, CauseMissing) and one.trouble == trouble
        }

    async def let_pass(self, time: timedelta) -> None:
        """Have everything wait for longer by ``time``, so that it is due if that is long enough."""
        shift = time // timedelta(microseconds=1)
        async with self.store.begin() as transaction:
            for statement in (
                update(holds).values(due_at=holds.c.due_at - shift),
                update(held).values(due_at=held.c.due_at - shift),
                update(waits).values(since=waits.c.since - shift),
            ):
                await transaction.connection.execute(statement)


def renamed(message: Message, name: str) -> Message:
    """Return ``message`` under another id."""
    return replace(message, id=name)
