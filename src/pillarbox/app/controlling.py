"""Control over a store: its ports put behind what operators ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeAlias

from pillarbox.app.assembly import calls_of
from pillarbox.app.sequences import lines_of
from pillarbox.app.system_clock import SystemClock
from pillarbox.clock import Clock
from pillarbox.control import (
    ConsumersControl,
    Control,
    GapsControl,
    HealthCheck,
    InboxControl,
    OutboxControl,
)
from pillarbox.control.health import VitalPorts
from pillarbox.control.held import HeldControl
from pillarbox.deadletter import DeadLetters, Ports
from pillarbox.deadletter.driver import SCOPE, ReplayDriver
from pillarbox.flow import Flow, Flows, Graph
from pillarbox.idempotency import InboxSettings
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.message import Message, new_message_id
from pillarbox.relational import RelationalStore
from pillarbox.relational.kept import StoreKept
from pillarbox.relay import RelaySettings
from pillarbox.saga.control import SagaControl
from pillarbox.serialization import JsonCodec
from pillarbox.telemetry import LoggingObserver

Check: TypeAlias = Callable[[Message], object]
DEFAULT_INBOX = InboxSettings()
DRIVER_LEASE = timedelta(seconds=15)


def dead_letters_of(
    store: RelationalStore, inbox: InboxSettings = DEFAULT_INBOX, check: Check | None = None
) -> DeadLetters:
    """Return the dead letters in ``store``; connects to nothing.

    Args:
        store: the database.
        inbox: how its inboxes are kept, and so how old a letter may be to be replayed without force.
        check: refuses edits that do not fit.
    """
    return DeadLetters(ports=ports_of(store), source=store, check=check, replay_within=inbox.replayable_for)


def held_of(store: RelationalStore) -> HeldControl:
    """Return the held keys in ``store``; connects to nothing."""
    return HeldControl(ports=ports_of(store), inspection=store.inspection, source=store)


def replay_driver_of(store: RelationalStore, *, clock: Clock) -> ReplayDriver:
    """Return what drives replay runs in ``store`` while no other process does; connects to nothing."""
    terms = LeaseTerms(scope=SCOPE, slots=1, ttl=DRIVER_LEASE)
    keeper = LeaseKeeper(terms, new_message_id(), store=store.leases, source=store, clock=clock)
    return ReplayDriver(
        runs=store.operators.runs, batches=store.operators.batches, keeper=keeper, observer=LoggingObserver()
    )


def ports_of(store: RelationalStore) -> Ports:
    """Return what the dead letters and held keys in ``store`` are worked on through."""
    return Ports(
        letters=store.dead_letters,
        blockers=store.dead_letters,
        review=store.operators.review,
        edits=store.operators.edits,
        runs=store.operators.runs,
        archive=store.operators.archive,
        acts=store.operators.acts,
        holding=store.holding,
        holds=store.operators.holds,
        waits=store.waits,
        inbox=store.inbox,
        pass_over=lines_of(store).pass_over,
    )


def flows_of(
    store: RelationalStore,
    declared: Sequence[Flow] = (),
    own: Callable[[], Graph] = Graph,
    included: list[Graph] | None = None,
) -> Flows:
    """Return the flows of ``store``; connects to nothing.

    Args:
        store: the database.
        declared: the flows of a program.
        own: returns the graph of the program's own consumers.
        included: the graphs of services in other databases.
    """
    return Flows(store.flows, acts=store.operators.acts, source=store, declared=declared, own=own, included=included)


def control_of(store: RelationalStore, inbox: InboxSettings = DEFAULT_INBOX, check: Check | None = None) -> Control:
    """Return control over the messages in ``store``; connects to nothing.

    Args:
        store: the database.
        inbox: how its inboxes are kept.
        check: refuses edits of dead letters that do not fit.
    """
    return Control(
        health=HealthCheck(
            VitalPorts(
                outbox=store.outbox,
                holding=store.holding,
                dead_letters=store.dead_letters,
                review=store.operators.review,
                waits=store.waits,
                gaps=store.gaps,
                circuits=store.circuits,
                inspection=store.inspection,
                sagas=store.saga_archive,
                flows=store.flows.instances,
                log=None if store.traits.log is None else store.traits.log.checkpoints,
            ),
            store,
            replay_within=inbox.replayable_for,
        ),
        outbox=OutboxControl(
            outbox=store.outbox,
            parked=store.parked,
            published=store.published,
            partitions=store.traits.partitions,
            numbers=store.numbers,
            source=store,
            observer=LoggingObserver(),
        ),
        inbox=InboxControl(inbox=store.inbox, inspection=store.inspection, source=store, settings=inbox),
        consumers=ConsumersControl(inspection=store.inspection, circuits=store.circuits, source=store),
        held=held_of(store),
        gaps=GapsControl(lines=lines_of(store), kept=StoreKept(store), source=store, observer=LoggingObserver()),
        dead_letters=dead_letters_of(store, inbox, check),
        sagas=SagaControl(store=store.sagas, archive=store.saga_archive, acts=store.operators.acts, source=store),
        calls=calls_of(store, JsonCodec(), clock=SystemClock(), hold=RelaySettings().lease),
        flows=flows_of(store),
    )
