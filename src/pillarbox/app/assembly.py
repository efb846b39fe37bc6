"""Puts the parts of a running box together: relays, consumers, and the membership that says who lives."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pillarbox.app.depending import Dependencies
from pillarbox.app.sequences import gate_of, watches_of
from pillarbox.channel import Broker, MessageReceiver, Subscription
from pillarbox.channel.wakeup import Wakeup
from pillarbox.clock import Clock
from pillarbox.consumer import Consumer, Providers
from pillarbox.consumer.alone import FencedIntake, OneAtATime, Tenure
from pillarbox.consumer.causal import CausalGate, CausalIntake
from pillarbox.consumer.drainer import Drainer
from pillarbox.consumer.gate import Gate
from pillarbox.consumer.intake import Accepts, Burials, ChannelIntake, HeldIntake, Intake
from pillarbox.consumer.intermittent import Intermittent
from pillarbox.consumer.outside import Caller, OutsideProcess
from pillarbox.consumer.process import Process
from pillarbox.consumer.releases import OtherReleases
from pillarbox.consumer.remembering import BusinessKeys
from pillarbox.consumer.run import Run, RunRules
from pillarbox.consumer.solitude import Solitude
from pillarbox.consumer.stopping import StoppingIntake, StopSign
from pillarbox.consumer.surroundings import LANES, RUN_SIZE, Surroundings
from pillarbox.consumer.transact import AsyncShell, SyncShell
from pillarbox.consumer.worker import ConsumerWorker, Handles
from pillarbox.errors import ConfigurationError, UnknownMessageTypeError
from pillarbox.idempotency.outside_calls import OutsideCalls
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.message import Message, Registry, new_message_id
from pillarbox.observe import Observers
from pillarbox.ordering import Causal
from pillarbox.outbox import Outbox
from pillarbox.relational import RelationalStore
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
from pillarbox.rounds import Loop
from pillarbox.saga.participant import ParticipantGuard
from pillarbox.saga.replies import CONSUMER as REPLIES
from pillarbox.serialization import UNREADABLE, Codec, decode_message

LOOK_FOR_STOP_EVERY = timedelta(seconds=1)
"""How often a process looks whether its consumer was stopped by another one, or may go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What every worker of a box is made of."""

    service: str
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
    dependencies: Dependencies
    max_held: int | None
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

    def consumer_workers(self, consumer: Consumer) -> tuple[Loop, ...]:
        """Make the loops of ``consumer``: what its channels deliver, and what it holds."""
        around = self._surroundings(consumer)
        process = self._process(consumer, Run(self._rules(consumer)), around)
        if not consumer.options.is_alone:
            watches = watches_of(consumer, self.store, self.relay, around)
            return (self._receiving(consumer, process, around), self._draining(consumer, process, around), *watches)
        terms = LeaseTerms(scope=f"single/{consumer.identity}", slots=1, ttl=self.relay.lease, whole=True)
        keeper = LeaseKeeper(terms, self.worker, store=self.store.leases, source=self.store, clock=self.clock)
        tenure = Tenure(keeper, self.store.leases)
        one_at_a_time = OneAtATime(process)

        def make() -> Sequence[Loop]:
            return (
                self._receiving(consumer, one_at_a_time, around, tenure),
                self._draining(consumer, one_at_a_time, around, tenure),
            )

        every = terms.ttl / 6
        return (Intermittent(make, may_work=tenure.is_ours, at_the_end=tenure.end, every=every, clock=self.clock),)

    def _receiving(
        self, consumer: Consumer, process: Handles, around: Surroundings, tenure: Tenure | None = None
    ) -> Loop:
        if not consumer.options.stops:
            return self._receiver(consumer, process, around, tenure)
        sign = StopSign(consumer.identity, holding=self.store.holding, source=self.store)
        return Intermittent(
            lambda: [self._receiver(consumer, process, around, tenure)],
            may_work=sign.is_off,
            every=LOOK_FOR_STOP_EVERY,
            clock=self.clock,
        )

    def _receiver(
        self, consumer: Consumer, process: Handles, around: Surroundings, tenure: Tenure | None
    ) -> ConsumerWorker:
        subscription = Subscription(consumer=consumer.identity, channels=consumer.channels)
        receiver = self.broker.receiver(subscription, owner=self.worker)
        intake = ChannelIntake(
            consumer.identity,
            holding=self.store.holding,
            burials=self._burials(consumer),
            accepts=self._accepts(receiver),
            max_held=self.max_held,
        )
        return ConsumerWorker(
            consumer,
            receiver=receiver,
            process=process,
            intake=self._guarded(consumer, intake, tenure, keeps=False),
            around=around,
        )

    def _draining(
        self, consumer: Consumer, process: Handles, around: Surroundings, tenure: Tenure | None = None
    ) -> Drainer:
        burials = self._burials(consumer)

        def intake_for(token: str) -> Intake:
            held = HeldIntake(
                consumer.identity,
                held=self.store.holding,
                dead_letters=self.store.dead_letters,
                burials=burials,
                token=token,
            )
            return self._guarded(consumer, held, tenure, keeps=True)

        return Drainer(
            consumer.identity, held=self.store.holding, process=process, intake_for=intake_for, around=around
        )

    def _burials(self, consumer: Consumer) -> Burials:
        options = consumer.options
        return Burials(
            consumer.identity,
            dead_letters=self.store.dead_letters,
            holding=self.store.holding,
            blocks="consumer" if options.stops else "key" if options.blocks_key else "message",
            redact=self.redact,
            package=consumer.package,
        )

    def _guarded(self, consumer: Consumer, intake: Intake, tenure: Tenure | None, *, keeps: bool) -> Intake:
        """Return ``intake`` with what the consumer's options ask for; ``keeps`` when it keeps what is not admitted."""
        name = consumer.identity
        if isinstance(consumer.options.ordering, Causal):
            intake = CausalIntake(intake, name, waits=self.store.waits, claims=self.store.claims)
        if consumer.options.stops:
            intake = StoppingIntake(intake, name, holding=self.store.holding, keeps=keeps)
        return intake if tenure is None else FencedIntake(intake, tenure)

    def _publication(self, keeper: LeaseKeeper) -> Publication:
        kind = RelayKind(self.relay.kind)
        hand_over = HandOver(kind, marks=self.store.marks, keeper=keeper, observer=self.observers, keep=self._keeps)
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
            needs=self.dependencies.of(consumer),
            solitude=self.solitude,
        )

    def _process(self, consumer: Consumer, run: Run, around: Surroundings) -> Handles:
        if consumer.mode == "outside":
            caller = Caller(consumer, providers=self.providers)
            return OutsideProcess(run, caller=caller, claims=self.store.claims, around=around)
        colour = AsyncShell if consumer.signature.is_async else SyncShell
        shell = colour(consumer, source=self.store, providers=self.providers)
        return Process(run, shell=shell, around=around)

    def _gate(self, consumer: Consumer) -> Gate:
        ordering = consumer.options.ordering
        if isinstance(ordering, Causal):
            return CausalGate(
                consumer,
                ordering,
                waits=self.store.waits,
                claims=self.store.claims,
                registry=self.store.consumers,
                now=self.clock.now,
                redact=self.redact,
            )
        return gate_of(consumer, self.store, self.clock)

    def _accepts(self, receiver: MessageReceiver) -> Accepts | None:
        return receiver if self.broker.capabilities.transactional else None  # type: ignore[return-value]

    def _rules(self, consumer: Consumer) -> RunRules:
        is_routed, gets_messages, types = consumer.route is not None, consumer.gets_messages, consumer.message_types
        keeps_unread = consumer.options.name == REPLIES  # another release beside this one awaits what this one does not

        def decode(message: Message) -> object:
            passes_on = is_routed or (keeps_unread and message.type not in types)
            if passes_on and message.type != UNREADABLE:
                return message
            if message.type not in types:
                raise UnknownMessageTypeError(message_type=message.type, version=message.version)
            return message if gets_messages else decode_message(message, self.registry, self.codec)

        guard = ParticipantGuard(
            self.service,
            store=self.store.participations,
            outbox=self.outbox,
            new_id=self.new_id,
            lets_go=consumer.options.when_dead is None,
            passes_on=is_routed,
        )
        by = consumer.options.dedupe_by
        return RunRules(
            consumer=consumer.identity,
            handles=consumer.takes,
            decode=decode,
            retry=consumer.options.retry,
            classification=self.classification.saying(*consumer.options.failures),
            redact=self.redact,
            package=consumer.package,
            deduplicates=consumer.deduplicates,
            batch=consumer.options.batch,
            blocks_key=consumer.options.blocks_key,
            stops=consumer.options.stops,
            inbox=self.store.inbox,
            attempts=self.store.attempts,
            outbox=self.outbox,
            gate=self._gate(consumer),
            translate=self.store.translate,
            now=self.clock.now,
            dice=self.dice,
            needs=self.dependencies.of(consumer),
            calls=self._calls if consumer.mode == "outside" else None,
            business_row=None if by is None else BusinessKeys(consumer.identity, by, decode).row_of,
            guard=guard if keeps_unread else OtherReleases(guard, consumer, registry=self.store.consumers),
        )

    @property
    def _calls(self) -> OutsideCalls:
        return calls_of(self.store, self.codec, clock=self.clock, hold=self.relay.lease)


def calls_of(store: RelationalStore, codec: Codec, *, clock: Clock, hold: timedelta) -> OutsideCalls:
    """Return the calls to the outside that are kept in ``store``."""
    return OutsideCalls(store.calls, source=store, codec=codec, clock=clock, new_token=new_message_id, hold=hold)
