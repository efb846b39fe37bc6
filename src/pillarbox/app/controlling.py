"""Control over a store: its ports put behind what operators ask."""

from __future__ import annotations

from pillarbox.control import ConsumersControl, Control, HealthCheck, InboxControl, OutboxControl
from pillarbox.deadletter import DeadLetters
from pillarbox.relational import RelationalStore
from pillarbox.telemetry import LoggingObserver


def control_of(store: RelationalStore) -> Control:
    """Return control over the messages in ``store``; connects to nothing."""
    return Control(
        health=HealthCheck(
            outbox=store.outbox,
            holding=store.holding,
            dead_letters=store.dead_letters,
            inspection=store.inspection,
            source=store,
            circuits=store.circuits,
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
        consumers=ConsumersControl(inspection=store.inspection, circuits=store.circuits, source=store),
        dead_letters=DeadLetters(store=store.dead_letters, holding=store.holding, source=store),
    )
