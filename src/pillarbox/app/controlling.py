"""Control over a store: its ports put behind what operators ask."""

from __future__ import annotations

from pillarbox.app.assembly import calls_of
from pillarbox.app.sequences import lines_of
from pillarbox.app.system_clock import SystemClock
from pillarbox.control import ConsumersControl, Control, GapsControl, HealthCheck, InboxControl, OutboxControl
from pillarbox.control.health import VitalPorts
from pillarbox.deadletter import DeadLetters
from pillarbox.idempotency import InboxSettings
from pillarbox.relational import RelationalStore
from pillarbox.relational.kept import StoreKept
from pillarbox.relay import RelaySettings
from pillarbox.serialization import JsonCodec
from pillarbox.telemetry import LoggingObserver

DEFAULT_INBOX = InboxSettings()


def control_of(store: RelationalStore, inbox: InboxSettings = DEFAULT_INBOX) -> Control:
    """Return control over the messages in ``store``, whose inboxes are kept as ``inbox`` says; connects to nothing."""
    return Control(
        health=HealthCheck(
            VitalPorts(
                outbox=store.outbox,
                holding=store.holding,
                dead_letters=store.dead_letters,
                waits=store.waits,
                gaps=store.gaps,
                circuits=store.circuits,
                inspection=store.inspection,
                log=None if store.traits.log is None else store.traits.log.checkpoints,
            ),
            store,
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
        gaps=GapsControl(lines=lines_of(store), kept=StoreKept(store), source=store, observer=LoggingObserver()),
        dead_letters=DeadLetters(
            store=store.dead_letters,
            holding=store.holding,
            source=store,
            replay_within=inbox.replayable_for,
            pass_over=lines_of(store).pass_over,
        ),
        calls=calls_of(store, JsonCodec(), clock=SystemClock(), hold=RelaySettings().lease),
    )
