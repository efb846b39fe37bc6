"""The composition root: the one place that knows patterns and adapters both."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from pillarbox.app.alerting import Alerting, alert_workers
from pillarbox.app.assembly import Parts, calls_of
from pillarbox.app.background import relief_of, replay_driver, upkeep_of
from pillarbox.app.carrying import check_carried
from pillarbox.app.controlling import control_of, dead_letters_of, held_of
from pillarbox.app.depending import Dependencies, Depending
from pillarbox.app.flowing import Flowing
from pillarbox.app.including import Including
from pillarbox.app.membership import membership_of
from pillarbox.app.orchestrating import (
    Included,
    check_stored,
    is_of_replies,
    orchestrator_of,
    reply_handlers,
    rules_of,
    sagas_of,
    waking,
)
from pillarbox.app.places import BrokerPlace, StorePlace, broker_at, outbox_of, store_at
from pillarbox.app.publishing import Publisher
from pillarbox.app.running import Running, connect
from pillarbox.app.settings import DEFAULTS, Settings
from pillarbox.channel import Broker
from pillarbox.channel.wakeup import Wakeup
from pillarbox.consumer import Consumer, Handlers, Provider, Providers, Scope
from pillarbox.consumer.dependency import Sharing
from pillarbox.consumer.resolve import resolve
from pillarbox.control import Health, HealthLimits
from pillarbox.deadletter.redaction import redacting
from pillarbox.errors.values import check_value
from pillarbox.message import Registry, Upcaster, check_name, new_message_id
from pillarbox.observe import Event, MessagesPublished, Observer, Observers
from pillarbox.outbox import Outbox
from pillarbox.relational import RelationalStore
from pillarbox.rounds import Loop
from pillarbox.saga import Saga
from pillarbox.saga.catalogue import Catalogue
from pillarbox.serialization import Codec, JsonCodec
from pillarbox.telemetry import FailureLog

T = TypeVar("T")


class Pillarbox(Publisher, Including, Depending, Alerting, Flowing):
    """One service's reliability layer: its outbox, its consumers, its dead letters.

    Constructing connects to nothing. ``publish`` and its siblings need only the caller's transaction; everything else
    needs the box open (``async with box``).
    """

    def __init__(
        self,
        name: str,
        *,
        store: StorePlace | None = None,
        broker: BrokerPlace | None = None,
        codec: Codec | None = None,
        settings: Settings = DEFAULTS,
    ) -> None:
        """Name the service and its places.

        Args:
            name: the service; part of every consumer's identity.
            store: a URL, or an engine of the caller's; left out: ``PILLARBOX_STORE``.
            broker: a URL, or a broker object; left out: ``PILLARBOX_BROKER``, else the store carries the messages.
            codec: how payloads are encoded; JSON unless another is given.
            settings: everything else.

        Raises:
            ConfigurationError: a place is missing or of an unknown kind.
        """
        self.name = check_name(name, what="the service's name")
        check_value(settings, Settings, name="Pillarbox(settings=)")
        check_value(codec, Codec | None, name="Pillarbox(codec=)")
        self.settings = settings
        self.registry = Registry()
        self.store: RelationalStore = store_at(store)
        self.store.wait_within(settings.answer_within)
        self.observers = Observers(otherwise=[FailureLog()])
        self._handlers = Handlers()
        self._included: list[Handlers] = [self._handlers]
        self._providers = Providers()
        self.codec = codec if codec is not None else JsonCodec(limits=settings.limits)
        self._outbox_wakeup = Wakeup()
        self._queue_wakeup = Wakeup()
        self.broker: Broker = broker_at(
            broker,
            store=self.store,
            relay=settings.relay,
            clock=settings.clock,
            wakeup=self._queue_wakeup,
            foreign=settings.foreign,
        )
        self._outbox = Outbox(
            service=name,
            store=outbox_of(self.store, form=settings.outbox, relay=settings.relay),
            codec=self.codec,
            limits=settings.limits,
            new_id=new_message_id,
            now=settings.clock.now,
        )
        self.calls = calls_of(self.store, self.codec, clock=settings.clock, hold=settings.relay.lease)
        self.dead_letters = dead_letters_of(self.store, settings.inbox, self.check_body)
        self.held = held_of(self.store)
        self.sagas = sagas_of(self.store, service=name, codec=self.codec, limits=settings.limits, runs=self._runs)
        self._sagas = Included(name)
        self._saga_wakeup = Wakeup()
        self._runnings: list[Running] = []
        self._stops = 0
        self._openings, self._is_open = 0, False

    # --- declaring ---

    def register(self, *types: type[object], upcasters: dict[int, Upcaster] | None = None) -> None:
        """Make message types known that no handler names, or teach a type to read its older versions.

        Raises:
            DuplicateTypeError: another class bears the same name and version; nothing was registered.
        """
        self.registry.register(*types, upcasters=upcasters)

    def provide(self, kind: type[object], factory: Callable[[], object], *, scope: Scope = "app") -> None:
        """Let handlers ask for ``kind`` by annotation.

        Args:
            kind: the type they annotate with.
            factory: makes one; may be asynchronous.
            scope: ``app`` for one in the process, ``message`` for one at each invocation.
        """
        self._providers.provide(kind, Provider(factory=factory, scope=scope))

    def override(self, kind: type[T], instance: T) -> AbstractContextManager[object]:
        """Give ``instance`` to every handler that asks for ``kind``; for tests.

        It holds for good, or ``with box.override(…):`` until the block ends.
        """
        return self._providers.override(kind, instance)

    def observe(self, observer: Observer, /) -> None:
        """Tell ``observer`` of everything that happens from now on."""
        check_value(observer, Observer, name="observe()")
        self.observers.add(observer)

    def twin(self, *, store: StorePlace, broker: BrokerPlace = "database://", settings: Settings) -> Pillarbox:
        """Return a box with the same handlers, providers, message types and codec in other places; for tests.

        What is declared, provided or overridden on one of the two later holds for both. Observers of this box are told
        of what the other one does.
        """
        other = Pillarbox(self.name, store=store, broker=broker, codec=self.codec, settings=settings)
        other.registry = self.registry
        other._handlers, other._included, other._sagas = self._handlers, self._included, self._sagas
        other._breakers = self._breakers
        other._declared_flows, other._included_graphs = self._declared_flows, self._included_graphs
        other._providers = self._providers.twin()
        other.observe(self.observers)
        return other

    def _runs(self, saga: Saga[Any]) -> bool:
        return self._sagas.runs(saga)  # of which a twin has the other one's

    # --- transactions ---

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """Begin a transaction of the store; leaving the block commits, an exception rolls back."""
        before = self._prepared
        async with self.store.begin() as transaction:
            yield transaction.connection
        self._committed(since=before)

    @contextmanager
    def transaction_sync(self) -> Generator[Connection]:
        """Begin a transaction of the store in this thread; leaving the block commits."""
        with self.store.begin_sync() as transaction:
            yield transaction.connection

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[AsyncSession]:
        """Begin a transaction with an ORM session; leaving the block flushes and commits."""
        async with self.transaction() as connection:
            session = AsyncSession(bind=connection, join_transaction_mode="rollback_only", expire_on_commit=False)
            yield session
            await session.flush()

    # --- running ---

    async def health(self) -> Health:
        """Return how the messages fare, from the tables alone: it is right also when no relay runs anywhere."""
        limits = HealthLimits(fullest_key=self.settings.max_held)
        return await control_of(self.store, self.settings.inbox).health.check(limits)

    async def migrate(self) -> tuple[int, ...]:
        """Bring the store's tables to this release; return the versions applied. Safe to run many times at once."""
        applied = await self.store.migrate()
        if not self._is_open:
            await self.store.let_go()
        return tuple(migration.version for migration in applied)

    async def __aenter__(self) -> Pillarbox:
        """Open the box: check its tables and connect its broker, or tell observers that it is away.

        Raises:
            SchemaVersionError: the tables are missing or of another release.
            ConfigurationError: the broker cannot be worked with.
        """
        self._openings += 1
        if not self._is_open:
            try:
                if (said := self.settings.migrate_on_open) or (said is None and self.store.traits.single_writer):
                    await self.store.migrate()
                await self.store.check_schema()
                await connect(self.broker, self.observers)
            except BaseException:
                self._openings -= 1
                await self.store.let_go()
                raise
            self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close pools and connections, unless another block still has the box open."""
        self._openings -= 1
        if not self._openings:
            self._is_open = False
            await self.broker.close()
            await self.store.close()

    async def run(self, *, relay: bool = True, consumers: bool = True, sagas: bool = True) -> None:
        """Work until ``stop`` is called or this is cancelled; opens the box if it is not open.

        Args:
            relay: publish what the outbox holds.
            consumers: handle messages.
            sagas: drive sagas.

        Raises:
            InvalidSetupError: lists everything that is wrong with the declarations; nothing was started.
        """
        stops = self._stops
        async with self:
            workers = await self._workers(relay=relay, consumers=consumers, sagas=sagas)
            running = self._begin(Running(workers, clock=self.settings.clock, observer=self.observers), stops=stops)
            try:
                await running.run()
            finally:
                self._end(running)

    @property
    def in_hand(self) -> int:
        """How many messages this process has received from channels and not yet settled."""
        return sum(running.in_hand for running in self._runnings)

    def stop(self) -> None:
        """Let ``run`` end once the handlers under way are through; what only waits is left to others."""
        self._stops += 1
        for running in self._runnings:
            running.stop()

    @asynccontextmanager
    async def running(
        self, *, relay: bool = True, consumers: bool = True, sagas: bool = True
    ) -> AsyncGenerator[Pillarbox]:
        """Run the workers for as long as the block lasts, then drain them; for a web framework's lifespan."""
        failed: Exception | None = None
        stops = self._stops
        async with self:
            workers = await self._workers(relay=relay, consumers=consumers, sagas=sagas)
            running = self._begin(Running(workers, clock=self.settings.clock, observer=self.observers), stops=stops)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(running.run())
                try:
                    yield self
                except Exception as error:  # raised again outside of the group, which would wrap it
                    failed = error
                finally:
                    running.stop()
                    await asyncio.wait({task}, timeout=self.settings.drain_within.total_seconds())
                    task.cancel()
                    self._end(running)
        if failed is not None:
            raise failed

    def consumers(self) -> tuple[Consumer, ...]:
        """Return the box's consumers, checked.

        Raises:
            InvalidSetupError: lists everything that is wrong with the declarations.
        """
        return self._resolved(self._sagas.catalogue(self._providers, self.codec))

    def _resolved(self, catalogue: Catalogue) -> tuple[Consumer, ...]:
        replies = reply_handlers(catalogue, rules_of(self._parts(), self.settings.limits), self.store)
        declarations = [*self._declarations, *(one for part in replies for one in part.declarations)]
        self.registry.register(*(kind for one in declarations for kind in one.types))
        consumers = resolve(
            declarations,
            service=self.name,
            provided=self._providers.by_type,
            names_required=not self.store.traits.single_writer,
            inbox=self.settings.inbox,
        )
        check_carried(self.registry, self.codec, consumers, catalogue)
        return self._with_tracker(consumers)

    async def _workers(self, *, relay: bool, consumers: bool, sagas: bool) -> list[Loop]:
        parts = self._parts()
        workers: list[Loop] = []
        catalogue = self._sagas.catalogue(self._providers, self.codec)
        sagas = sagas and bool(catalogue.definitions)
        relaying: list[Loop] = [parts.relay_worker()] if relay else []
        if consumers or sagas:
            checked = await self._tracked(self._resolved(catalogue))
            await self._retire_tracker()
            membership = membership_of(parts, checked, self._graph_of(checked).participants)
            async with membership.joined():
                workers += [membership, replay_driver(parts), *upkeep_of(parts, self.settings)]
                ours = [one for one in checked if (sagas if is_of_replies(one) else consumers)]
                workers += membership.once_declared(worker for one in ours for worker in parts.consumer_workers(one))
                workers += await self._flow_workers(parts) if consumers else ()
                if sagas:
                    await check_stored(catalogue, self.store)
            if parts.has_table:  # a new consumer is to get what is published now; a log alone would lose it
                relaying = membership.once_declared(relaying)
        if sagas:
            workers.append(orchestrator_of(catalogue, rules_of(parts, self.settings.limits), parts, self._saga_wakeup))
        return [*workers, *relaying, *relief_of(parts), *alert_workers(self._alarms, parts, self.settings.inbox)]

    def _parts(self) -> Parts:
        identity = new_message_id()
        published = _RingOnPublish(self._queue_wakeup)
        observers = waking(Observers([self.observers, published]), self._saga_wakeup, service=self.name)
        sharing = Sharing(
            circuits=self.store.circuits,
            source=self.store,
            clock=self.settings.clock,
            observer=observers,
            new_token=new_message_id,
            dice=random.random,
            lease=self.settings.relay.lease * 2,
        )
        return Parts(
            service=self.name,
            store=self.store,
            broker=self.broker,
            outbox=self._outbox,
            registry=self.registry,
            codec=self.codec,
            providers=self._providers,
            classification=self.settings.classification,
            redact=redacting(self.settings.redact),
            relay=self.settings.relay,
            clock=self.settings.clock,
            observers=observers,
            outbox_wakeup=self._outbox_wakeup,
            has_table=self.settings.outbox == "table",
            dependencies=Dependencies(self._breakers, sharing),
            max_held=self.settings.max_held,
            worker=f"{self.name}-{os.getpid()}-{identity[-12:]}",
            new_id=new_message_id,
        )


class _RingOnPublish(Observer):
    """Wakes the receivers of this process when something was published."""

    def __init__(self, wakeup: Wakeup) -> None:
        self._wakeup = wakeup

    def notice(self, event: Event, /) -> None:
        if isinstance(event, MessagesPublished):
            self._wakeup.ring()
