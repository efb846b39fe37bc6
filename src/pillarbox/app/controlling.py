"""Control over a store: its ports put behind what operators ask."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from pillarbox.clock import Clock
from pillarbox.control import ConsumersControl, Control, HealthCheck, HeldControl, InboxControl, OutboxControl
from pillarbox.deadletter import DeadLetters, Ports
from pillarbox.deadletter.driver import SCOPE, ReplayDriver
from pillarbox.lease import LeaseKeeper, LeaseTerms
from pillarbox.message import Message, new_message_id
from pillarbox.relational import RelationalStore
from pillarbox.telemetry import LoggingObserver

Check = Callable[[Message], object]
DRIVER_LEASE = timedelta(seconds=15)


def dead_letters_of(store: RelationalStore, check: Check | None = None) -> DeadLetters:
    """Return the dead letters in ``store``; ``check`` refuses edits that do not fit; connects to nothing."""
    return DeadLetters(ports=ports_of(store), source=store, check=check)


def held_of(store: RelationalStore) -> HeldControl:
    """Return the held keys in ``store``; connects to nothing."""
    return HeldControl(ports=ports_of(store), inspection=store.inspection, source=store)


def replay_driver_of(store: RelationalStore, *, clock: Clock) -> ReplayDriver:
    """Return what drives replay runs in ``store`` while no other process does; connects to nothing."""
    terms = LeaseTerms(scope=SCOPE, slots=1, ttl=DRIVER_LEASE)
    keeper = LeaseKeeper(terms, new_message_id(), store=store.leases, source=store, clock=clock)
    return ReplayDriver(runs=store.operators.runs, keeper=keeper, observer=LoggingObserver())


def ports_of(store: RelationalStore) -> Ports:
    """Return what the dead letters and held keys in ``store`` are worked on through."""
    return Ports(
        letters=store.dead_letters,
        blockers=store.dead_letters,
        review=store.operators.review,
        edits=store.operators.edits,
        runs=store.operators.runs,
        acts=store.operators.acts,
        holding=store.holding,
        holds=store.operators.holds,
        inbox=store.inbox,
    )


def control_of(store: RelationalStore, check: Check | None = None) -> Control:
    """Return control over the messages in ``store``; ``check`` refuses edits that do not fit; connects to nothing."""
    return Control(
        health=HealthCheck(
            outbox=store.outbox,
            holding=store.holding,
            dead_letters=store.dead_letters,
            inspection=store.inspection,
            source=store,
            log=None if store.traits.log is None else store.traits.log.checkpoints,
        ),
        outbox=OutboxControl(
            outbox=store.outbox,
            parked=store.parked,
            published=store.published,
            partitions=store.traits.partitions,
            source=store,
            observer=LoggingObserver(),
        ),
        inbox=InboxControl(inbox=store.inbox, inspection=store.inspection, source=store),
        consumers=ConsumersControl(inspection=store.inspection, source=store),
        held=held_of(store),
        dead_letters=dead_letters_of(store, check),
    )
