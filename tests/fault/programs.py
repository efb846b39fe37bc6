"""What the worker processes of the fault tests do."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Integer, bindparam, func, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox import Context, RecipientList, Retry
from pillarbox.deadletter import driver
from pillarbox.errors import StoreUnavailableError
from pillarbox.relational.tables import queue
from pillarbox.relay import OutboxTransfer
from pillarbox.transaction import Execute
from tests import effort
from tests.fault.recording import Lines, Mark, NoticeLog, RecordingBroker
from tests.fault.story import Entered, Setting, Writer, Writing, effects, stay_open, waiting
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pillarbox import Pillarbox
    from pillarbox.relay.reader import Transferred
    from pillarbox.transaction import Program
    from tests.fault.workers import Seat

CONSUMERS = ("post", "mirror")
PATIENCE = timedelta(seconds=effort.of(900, 120))


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """How a writing process is driven.

    Attributes:
        writers: how many transactions are open side by side.
        backlog: no more entries are made while so many messages wait; ``None`` writes on.
        queues_too: count also what waits in the queues, not only in the outbox.
        commits: where the time of each commit is noted.
        stop: the file whose appearance ends the writing early.
        stubborn: an error of the database is not the end; the next transaction is tried.
    """

    writers: int
    commits: Path
    stop: Path
    backlog: int | None = None
    queues_too: bool = False
    stubborn: bool = False


class _Room:
    """What a process may still write before it counts again what waits: counting costs more than writing does."""

    def __init__(self, box: Pillarbox, demand: Demand) -> None:
        self._box = box
        self._demand = demand
        self._left = 0
        self._counting = asyncio.Lock()

    async def take(self, count: int) -> None:
        """Take room for ``count`` messages; wait until a quarter of the backlog is done if there is none."""
        async with self._counting:
            if self._left <= 0:
                self._left = await wait_until(self._found, PATIENCE)
            self._left -= count

    async def _found(self) -> int:
        if self._demand.backlog is None or self._demand.stop.exists():
            return 1
        waits = await waiting(self._box.store, queues_too=self._demand.queues_too)
        found = self._demand.backlog - waits
        return found if found >= self._demand.backlog / 4 else 0


async def write(me: Seat, setting: Setting, plan: Writing, demand: Demand) -> None:
    """Make entries until there are enough."""
    box = setting.box()
    notes = Lines(demand.commits)
    left = [plan.events]
    room = _Room(box, demand)

    async def one(number: int) -> None:
        writer = Writer(box, plan, f"{me.name}.{number}")
        while left[0] > 0 and not demand.stop.exists():
            try:
                await room.take(plan.together)
                tokens = await writer.transaction()
            except (DBAPIError, OSError, StoreUnavailableError):
                if not demand.stubborn:
                    raise
                await stay_open(20)
                continue
            left[0] -= len(tokens)
            if tokens:
                notes.append({"at": time.time(), "tokens": tokens})

    async with box, asyncio.TaskGroup() as group:
        for number in range(demand.writers):
            group.create_task(one(number))


async def relay(me: Seat, setting: Setting, log: Path, per_message_ms: float = 0, gate: Path | None = None) -> None:
    """Relay to a recording broker until killed or told to end.

    Each message takes ``per_message_ms``, half of it before the broker has it; none is sent before ``gate`` exists.
    """

    async def half() -> None:
        await stay_open(per_message_ms / 2)

    async def before() -> None:
        if gate is not None:
            await wait_until(gate.exists)
        await half()

    broker = RecordingBroker(log, sender=me.name, mark=Mark(me.mark), before_each=before, after_each=half)
    box = setting.box(broker)
    box.observe(NoticeLog(me.notices))
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with box.running(consumers=False):
        await told.wait()


COPIED = [column.name for column in queue.c if column.name != "position"]
LAST_QUEUED = select(func.coalesce(func.max(queue.c.position), 0))
COPY = insert(queue).from_select(  # a message at one position has more copies than one at another
    COPIED,
    select(*(queue.c[name] for name in COPIED))
    .where(
        queue.c.position > bindparam("after", type_=Integer),
        queue.c.position <= bindparam("until", type_=Integer),
        queue.c.position % bindparam("most", type_=Integer) >= bindparam("number", type_=Integer),
    )
    .order_by(queue.c.position),
)


class MarkedTransfer(OutboxTransfer):
    """A transfer that says when it is under way, and queues each message up to ``copies`` times."""

    def __init__(self, inner: OutboxTransfer, mark: Mark, *, copies: int = 1) -> None:
        self._inner = inner
        self._mark = mark
        self._copies = copies

    def transfer(
        self,
        scope: str,
        tokens: Sequence[int],
        *,
        slots: Sequence[int],
        paused: Sequence[str],
        limit: int,
        keep: bool = False,
    ) -> Program[Transferred]:
        with self._mark.busy():
            moving = self._inner.transfer(scope, tokens, slots=slots, paused=paused, limit=limit, keep=keep)
            if self._copies == 1:
                return (yield from moving)
            after = (yield Execute(LAST_QUEUED))[0][0]
            moved = yield from moving
            until = (yield Execute(LAST_QUEUED))[0][0]
            for number in range(1, self._copies):
                yield Execute(COPY, {"after": after, "until": until, "most": self._copies, "number": number})
            return moved

    def transfer_released(
        self,
        scope: str,
        tokens: Sequence[int],
        *,
        slots: Sequence[int],
        paused: Sequence[str],
        limit: int,
        keep: bool = False,
    ) -> Program[Transferred]:
        return self._inner.transfer_released(scope, tokens, slots=slots, paused=paused, limit=limit, keep=keep)


async def relay_within(me: Seat, setting: Setting, copies: int = 1) -> None:
    """Relay to the queues of the store until killed; each message comes once or up to ``copies`` times."""
    box = setting.box()
    box.store.transfer = MarkedTransfer(box.store.transfer, Mark(me.mark), copies=copies)  # type: ignore[assignment]  # the port in place of its adapter
    box.observe(NoticeLog(me.notices))
    async with box.running(consumers=False):
        await asyncio.Event().wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Consuming:
    """How a consuming process behaves.

    Attributes:
        handle_ms: the longest time that a handler takes.
        killers: accounts whose entries end the process that handles them.
        kills_in: whether their handler ends it, or already what finds their business key.
        by_token: the business key of an entry is its token.
        outside: handlers have no transaction, and write their effects in one of their own.
        concurrency: how many lanes each consumer has.
        replay_batch: so many letters of a replay become due in one transaction.
        routed: each consumer listens to the queue of its name, where a recipient list sends it the entries.
    """

    retry: Retry = field(default_factory=Retry)
    handle_ms: float = 0
    killers: frozenset[str] = frozenset()
    kills_in: Literal["handler", "key"] = "handler"
    by_token: bool = False
    outside: bool = False
    concurrency: int = 2
    consumers: tuple[str, ...] = CONSUMERS
    routed: bool = False
    replay_batch: int = driver.BATCH


async def consume(me: Seat, setting: Setting, how: Consuming) -> None:
    """Apply entries for each consumer until killed."""
    driver.BATCH = how.replay_batch
    box = setting.box()
    box.observe(NoticeLog(me.notices))
    mark = Mark(me.mark)

    def token_of(entry: Entered) -> str:
        if how.kills_in == "key" and entry.account in how.killers:
            os._exit(3)
        return entry.token

    async def note(consumer: str, entry: Entered, tx: AsyncConnection) -> None:
        with mark.busy():
            row = {"consumer": consumer, "token": entry.token, "account": entry.account}
            await tx.execute(insert(effects), row)
            if entry.account in how.killers:
                os._exit(3)
            await stay_open(how.handle_ms)

    def declare(consumer: str) -> None:
        channel = consumer if how.routed else None
        dedupe_by = token_of if how.by_token else None
        if how.outside:

            @box.on(Entered, name=consumer, retry=how.retry, channel=channel, dedupe_by=dedupe_by, outside=True)
            async def apply_outside(entry: Entered) -> None:
                async with box.transaction() as tx:
                    await note(consumer, entry, tx)

            return

        @box.on(
            Entered,
            name=consumer,
            retry=how.retry,
            channel=channel,
            dedupe_by=dedupe_by,
            concurrency=how.concurrency,
        )
        async def apply(entry: Entered, tx: AsyncConnection, ctx: Context) -> None:
            await note(consumer, entry, tx)

    for consumer in how.consumers:
        declare(consumer)
    if how.routed:
        box.include(RecipientList("split", *how.consumers, source=Entered), concurrency=how.concurrency)
    async with box.running(relay=False):
        await asyncio.Event().wait()
