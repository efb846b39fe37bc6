"""Puts the parts of a running box together: relays, consumers, and the membership that says who lives."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pillarbox.channel import Broker, MessageReceiver, Subscription
from pillarbox.channel.wakeup import Wakeup
from pillarbox.clock import Clock
from pillarbox.consumer import Consumer, Providers
from pillarbox.consumer.drainer import Drainer
from pillarbox.consumer.gate import OPEN
from pillarbox.consumer.intake import Accepts, Burials, ChannelIntake, HeldIntake
from pillarbox.consumer.outside import Caller, OutsideProcess
from pillarbox.consumer.process import Process
from pillarbox.consumer.run import Run, RunRules
from pillarbox.consumer.solitude import Solitude
from pillarbox.consumer.surroundings import LANES, RUN_SIZE, Surroundings
from pillarbox.consumer.transact import AsyncShell, SyncShell
from pillarbox.consumer.worker import ConsumerWorker, Handles
from pillarbox.deadletter.driver import SCOPE as REPLAYS
from pillarbox.deadletter.driver import ReplayDriver
from pillarbox.errors import ConfigurationError, UnknownMessageTypeError
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.message import Message, Registry
from pillarbox.observe import Observers
from pillarbox.outbox import Outbox
from pillarbox.relational import RelationalStore
from pillarbox.relational.idempotency import WORKERS
from pillarbox.relay import (
    SCOPE,
    Dispatch,
    HandOver,
    PollingPublication,
    Publication,
    Relay,
    RelayKind,
    RelaySettings,
    Released,
    SequenceFeed,
    TransferPublication,
    WatermarkPublication,
)
from pillarbox.relay.log_tailing import LogTailingFeed
from pillarbox.relay.upkeep import Upkeep
from pillarbox.relay.watermark import Feed
from pillarbox.retry import Classification
from pillarbox.serialization import Codec, decode_message


class Worker(Protocol):
    """A loop of a running box."""

    @abstractmethod
    async def run(self) -> None:
        """Work until ``stop``."""

    @abstractmethod
    def stop(self) -> None:
        """End ``run`` soon, with nothing left half done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What every worker of a box is made of."""

    store: RelationalStore
    broker: Broker
    outbox: Outbox
    registry: Registry
    codec: Codec
    providers: Providers
    classification: Classification
    redact: Callable[[str], str]
    relay: RelaySettings
    clock: Clock
    observers: Observers
    outbox_wakeup: Wakeup
    worker: str
    new_id: Callable[[], str]
    solitude: Solitude = field(default_factory=Solitude)
    has_table: bool = True
    dice: Callable[[], float] = random.random

    def relay_worker(self) -> Relay:
        """Make a relay that publishes to the box's broker.

        Raises:
            ConfigurationError: the store or the broker does not go together with the kind of relay.
        """
        terms = LeaseTerms(scope=SCOPE, ttl=self.relay.lease, whole=self.relay.kind != RelayKind.POLLING)
        keeper = LeaseKeeper(terms, self.worker, store=self.store.leases, source=self.store, clock=self.clock)
        return Relay(
            publication=self._publication(keeper),
            keeper=keeper,
            reader=self.store.slots,
            settings=self.relay,
            wakeup=self.outbox_wakeup,
            observer=self.observers,
            upkeep=Upkeep(
                published=self.store.published,
                partitions=self.store.traits.partitions,
                keeper=keeper,
                settings=self.relay,
            ),
        )

    def membership(self) -> Membership:
        """Make the heartbeat of this process."""
        terms = LeaseTerms(scope=WORKERS, slots=0, ttl=self.relay.lease)
        keeper = LeaseKeeper(terms, self.worker, store=self.store.leases, source=self.store, clock=self.clock)
        return Membership(keeper, clock=self.clock)

    def replay_driver(self) -> ReplayDriver:
        """Make what works off replay runs, in one process at a time."""
        terms = LeaseTerms(scope=REPLAYS, slots=1, ttl=self.relay.lease)
        keeper = LeaseKeeper(terms, self.worker, store=self.store.leases, source=self.store, clock=self.clock)
        return ReplayDriver(runs=self.store.operators.runs, keeper=keeper, observer=self.observers)

    def consumer_workers(self, consumer: Consumer) -> tuple[Worker, ...]:
        """Make the two loops of ``consumer``: what its channels deliver, and what it holds."""
        subscription = Subscription(consumer=consumer.identity, channels=consumer.channels)
        receiver = self.broker.receiver(subscription, owner=self.worker)
        around = self._surroundings(consumer)
        process = self._process(consumer, Run(self._rules(consumer)), around)
        burials = Burials(
            consumer.identity,
            dead_letters=self.store.dead_letters,
            holding=self.store.holding,
            blocks_key=consumer.options.blocks_key,
            redact=self.redact,
        )
        intake = ChannelIntake(
            consumer.identity, holding=self.store.holding, burials=burials, accepts=self._accepts(receiver)
        )
        worker = ConsumerWorker(
            consumer,
            receiver=receiver,
            process=process,
            intake=intake,
            around=around,
        )
        drainer = Drainer(
            consumer.identity,
            held=self.store.holding,
            process=process,
            intake_for=lambda token: HeldIntake(
                consumer.identity,
                held=self.store.holding,
                dead_letters=self.store.dead_letters,
                burials=burials,
                token=token,
            ),
            around=around,
        )
        return (worker, drainer)

    def _publication(self, keeper: LeaseKeeper) -> Publication:
        kind = RelayKind(self.relay.kind)
        hand_over = HandOver(kind, marks=self.store.marks, keeper=keeper, keep=self._keeps)
        if self.broker.capabilities.transactional:
            if kind is not RelayKind.POLLING:
                raise ConfigurationError(
                    f"a relay of the kind {kind.value!r} publishes to a broker, and here the database carries "
                    "the messages; name a broker, or leave the kind at 'polling', which moves them in one transaction"
                )
            return TransferPublication(
                transfer=self.store.transfer,
                hand_over=hand_over,
                keeper=keeper,
                settings=self.relay,
                observer=self.observers,
                dice=self.dice,
            )
        dispatch = Dispatch(
            sender=self.broker.sender(),
            keeper=keeper,
            settings=self.relay,
            observer=self.observers,
            dice=self.dice,
        )
        released = Released(
            dispatch=dispatch,
            held=self.store.held_records,
            keeper=keeper,
            observer=self.observers,
            keep=self._keeps,
        )
        if kind is RelayKind.POLLING:
            return PollingPublication(
                dispatch=dispatch,
                reader=self.store.slots,
                released=released,
                hand_over=hand_over,
                keeper=keeper,
                settings=self.relay,
                observer=self.observers,
            )
        return WatermarkPublication(
            feed=self._feed(kind, keeper),
            dispatch=dispatch,
            released=released,
            hand_over=hand_over,
            keeper=keeper,
            settings=self.relay,
            observer=self.observers,
        )

    def _feed(self, kind: RelayKind, keeper: LeaseKeeper) -> Feed:
        sequence = self.store.traits.sequence
        if kind is RelayKind.SEQUENCE and sequence is not None:
            return SequenceFeed(reader=sequence, keeper=keeper, observer=self.observers, keep=self._keeps)
        log = self.store.traits.log
        if kind is RelayKind.LOG and log is not None:
            reader = log.reader(
                source=self.store,
                clock=self.clock,
                settings=self.relay,
                is_wanted=lambda: bool(keeper.tokens),
                on_arrival=self.outbox_wakeup.ring,
            )
            return LogTailingFeed(
                reader=reader,
                checkpoints=log.checkpoints,
                keeper=keeper,
                observer=self.observers,
                has_table=self.has_table,
                idle_every=self.relay.log.idle_every,
                keep=self._keeps,
            )
        raise ConfigurationError(
            f"{self.store.name} cannot be read by a relay of the kind {kind.value!r}: {self.store.traits.refuses[kind]}"
        )

    @property
    def _keeps(self) -> bool:
        return self.relay.keep is not None

    def _surroundings(self, consumer: Consumer) -> Surroundings:
        return Surroundings(
            source=self.store,
            clock=self.clock,
            observer=self.observers,
            worker=self.worker,
            new_token=self.new_id,
            on_published=self.outbox_wakeup.ring,
            lease=self.relay.lease,
            lanes=1 if self.store.traits.single_writer else LANES,
            run_size=max(RUN_SIZE, consumer.options.batch or 1),
            solitude=self.solitude,
        )

    def _process(self, consumer: Consumer, run: Run, around: Surroundings) -> Handles:
        if consumer.mode == "outside":
            caller = Caller(consumer, providers=self.providers)
            return OutsideProcess(run, caller=caller, claims=self.store.claims, around=around)
        colour = AsyncShell if consumer.signature.is_async else SyncShell
        shell = colour(consumer, source=self.store, providers=self.providers)
        return Process(run, shell=shell, around=around)

    def _accepts(self, receiver: MessageReceiver) -> Accepts | None:
        return receiver if self.broker.capabilities.transactional else None  # type: ignore[return-value]

    def _rules(self, consumer: Consumer) -> RunRules:
        def decode(message: Message) -> object:
            if consumer.route is not None:
                return message
            if message.type not in consumer.message_types:
                raise UnknownMessageTypeError(message_type=message.type, version=message.version)
            return decode_message(message, self.registry, self.codec)

        return RunRules(
            consumer=consumer.identity,
            handles=consumer.takes,
            decode=decode,
            retry=consumer.options.retry,
            classification=self.classification,
            redact=self.redact,
            deduplicates=consumer.deduplicates,
            batch=consumer.options.batch,
            blocks_key=consumer.options.blocks_key,
            inbox=self.store.inbox,
            attempts=self.store.attempts,
            outbox=self.outbox,
            gate=OPEN,
            translate=self.store.translate,
            now=self.clock.now,
            dice=self.dice,
        )


class Membership:
    """Tells the other processes that this one lives, so that its messages under way are not taken for crashed."""

    def __init__(self, keeper: LeaseKeeper, *, clock: Clock) -> None:
        """Renew the membership of ``keeper``."""
        self._keeper = keeper
        self._clock = clock
        self._stop = Wakeup()
        self._stopping = False

    def stop(self) -> None:
        """End ``run``."""
        self._stopping = True
        self._stop.ring()

    async def join(self) -> None:
        """Become a member before anything is handled."""
        await self._keeper.keep()

    async def run(self) -> None:
        """Renew until ``stop``, then sign off."""
        while not self._stopping:
            await self._keeper.keep()
            await self._stop.wait(self._clock, self._keeper.terms.ttl / 6)
        await self._keeper.leave()
