"""Runs a box's handlers in a test: SQLite in memory, virtual time, the database as the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

from sqlalchemy import MetaData
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from pillarbox.app import Pillarbox
from pillarbox.deadletter import DeadLetter
from pillarbox.flow.record import TRACKER
from pillarbox.message import Message, Registry, message_type_of
from pillarbox.observe import Event, MessageHandled, Observer, WorkerFaltered
from pillarbox.relay import RelayKind
from pillarbox.serialization import decode_message
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.testing.pending import Pending, keep_a_copy, look_for_pending, published_after
from pillarbox.testing.virtual_clock import VirtualClock

T = TypeVar("T")

PATIENCE = timedelta(seconds=30)
HORIZON = timedelta(days=366)
MOMENT = timedelta(milliseconds=1)
TURN_S = 0.001
TURNS_WITHOUT_PROGRESS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """A message that was handled.

    Attributes:
        consumer: ``<service>/<name>``.
        attempts: how often its handler was invoked.
    """

    consumer: str
    payload: object
    attempts: int


class Harness:
    """A box under test: the same handlers, providers and overrides, whatever store and broker the box names.

    Nothing waits: when only delayed messages, retries and timeouts of sagas remain, time jumps to the first of them.
    Time moves on by fractions of a second while work is done, so do not test for single milliseconds.
    """

    def __init__(self, box: Pillarbox, *, tables: MetaData | None = None) -> None:
        """Run ``box``'s declarations; ``tables`` of the program are created first."""
        self.clock = VirtualClock()
        self._store = sqlite_store(URL.create("sqlite"), now=self.clock.now)
        relay = replace(box.settings.relay, kind=RelayKind.POLLING)  # what the database as the broker can have
        settings = replace(box.settings, relay=relay, outbox="table", clock=self.clock, migrate_on_open=True)
        self.box = box.twin(store=self._store, settings=settings)
        """The box that runs: use it for transactions, dead letters, queries."""
        self._tables = tables
        self._observer = _Noting()
        self.box.observe(self._observer)
        self._consumers = frozenset[str]()
        self._channels = frozenset[str]()
        self._messages: list[Message] = []
        self._seen = 0
        self._dead: tuple[DeadLetter, ...] = ()
        self._stack = AsyncExitStack()
        self._entered = False

    async def __aenter__(self) -> Harness:
        """Create the tables and start the workers.

        Raises:
            InvalidSetupError: lists everything that is wrong with the declarations.
            RuntimeError: it was entered before; its database is gone.
        """
        if self._entered:
            raise RuntimeError("a harness is entered once, since its database goes with it; make another one")
        self._entered = True
        consumers = self.box.consumers()
        self._consumers = frozenset(consumer.identity for consumer in consumers)
        self._channels = frozenset(channel for consumer in consumers for channel in consumer.channels)
        await self._stack.enter_async_context(self.box)
        await self._store.run(keep_a_copy())
        if self._tables is not None:
            async with self.box.transaction() as tx:
                await tx.run_sync(self._tables.create_all)
        await self._stack.enter_async_context(self.box.running())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drain the workers and drop the database."""
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            pushing = group.create_task(self._push_time(ending))
            try:
                await self._stack.aclose()
            finally:
                ending.set()
                pushing.cancel()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """Begin a transaction of the database under test; leaving the block commits."""
        async with self.box.transaction() as tx:
            yield tx

    async def publish(
        self,
        event: object,
        /,
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish ``event`` in a transaction of its own."""
        async with self.box.transaction() as tx:
            await self.box.publish(event, tx=tx, key=key, delay=delay, headers=headers)

    async def send(
        self,
        command: object,
        /,
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send ``command`` in a transaction of its own."""
        async with self.box.transaction() as tx:
            await self.box.send(command, tx=tx, key=key, delay=delay, headers=headers)

    async def until_quiet(self, *, horizon: timedelta = HORIZON, patience: timedelta = PATIENCE) -> None:
        """Return when everything is handled or dead and no saga is under way; time jumps over what waits.

        Args:
            horizon: how far time may jump in all.
            patience: how long the test may really wait.

        Raises:
            AssertionError: something is still pending after that; says what.
        """
        end, deadline = self.clock.now() + horizon, _real_time() + patience.total_seconds()
        while (pending := await self._settle(deadline)).next_in is not None:
            if self.clock.now() + pending.next_in > end:
                raise AssertionError(f"not quiet within {horizon}: {pending}{self._observer.trouble}")
            self.clock.advance(pending.next_in + MOMENT)
        await self._refresh()

    async def advance(self, duration: timedelta, *, patience: timedelta = PATIENCE) -> None:
        """Let ``duration`` pass, and everything happen that is due by then.

        Raises:
            ValueError: time does not go back.
            AssertionError: what is due does not come to an end; says what is pending.
        """
        if duration < timedelta(0):
            raise ValueError(f"time does not go back: advance({duration!r})")
        end, deadline = self.clock.now() + duration, _real_time() + patience.total_seconds()
        while (pending := await self._settle(deadline)).next_in is not None:
            if self.clock.now() + pending.next_in > end:
                break
            self.clock.advance(pending.next_in + MOMENT)
        self.clock.advance(max(end - self.clock.now(), timedelta(0)))
        await self._settle(deadline)
        await self._refresh()

    def published(self, kind: type[T]) -> list[T]:
        """Return the messages of ``kind`` that were published or sent, by the test too, in order.

        True as of the last ``until_quiet`` or ``advance``. A delayed message counts once it is due.
        """
        declared = message_type_of(kind)
        return [
            self.box.codec.decode(message.body, kind)
            for message in self._messages
            if (message.type, message.version) == (declared.name, declared.version)
        ]

    @property
    def handled(self) -> list[Handled]:
        """What was handled, in order, once for each consumer; duplicates, and what watches flows, are left out."""
        by_id = {message.id: message for message in self._messages}
        return [
            Handled(consumer=one.consumer, payload=self._payload(by_id[one.message_id]), attempts=one.attempts)
            for one in self._observer.handled
            if one.message_id in by_id and not one.consumer.endswith(f"/{TRACKER}")
        ]

    @property
    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """What is dead, oldest first, as of the last ``until_quiet`` or ``advance``."""
        return self._dead

    def _payload(self, message: Message) -> object:
        registry: Registry = self.box.registry
        return decode_message(message, registry, self.box.codec)

    async def _settle(self, deadline: float) -> Pending:
        """Let everything happen that is due now; return what waits for its time."""
        turns = 0
        while True:
            pending = await self._store.run(look_for_pending(self._consumers, self._channels))
            in_hand = self.box.in_hand
            if not pending.now and not in_hand:
                return pending
            if _real_time() > deadline:
                hands = f"{in_hand} in the hands of handlers; " if in_hand else ""
                raise AssertionError(f"not quiet in time: {hands}{pending}{self._observer.trouble}")
            turns += 1
            await asyncio.sleep(TURN_S if in_hand else 0)  # noqa: TID251  # threads need real time
            if not in_hand or turns % TURNS_WITHOUT_PROGRESS == 0:
                self.clock.jump()  # the next loop that polls

    async def _push_time(self, ending: asyncio.Event) -> None:
        """Let time pass while the workers drain."""
        while not ending.is_set():
            self.clock.jump()
            await asyncio.sleep(TURN_S)  # noqa: TID251  # threads need real time

    async def _refresh(self) -> None:
        for position, message in await self._store.run(published_after(self._seen)):
            self._seen = position
            self._messages.append(message)
        self._dead = await self.box.dead_letters.list(limit=10_000)


class _Noting(Observer):
    """Notes what was handled, and the last trouble."""

    def __init__(self) -> None:
        self.handled: list[MessageHandled] = []
        self.trouble = ""

    def notice(self, event: Event, /) -> None:
        if isinstance(event, MessageHandled):
            self.handled.append(event)
        elif isinstance(event, WorkerFaltered):
            self.trouble = f"; last trouble: {event.worker}: {event.error_type}: {event.error}"


def _real_time() -> float:
    return asyncio.get_running_loop().time()
