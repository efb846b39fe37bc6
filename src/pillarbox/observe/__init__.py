"""Observation: one frozen event for each thing that happens, told to whoever asked.

Guarantee: an event is told after what it tells of is durable.
Not promised: that each is told once; a process may end between the commit and the telling.
Source: Oban's telemetry events; the reading order is events, observer.
"""

from pillarbox.observe.events import (
    AlertFailed,
    AttemptFailed,
    BreakerClosed,
    BreakerOpened,
    BrokerAway,
    CursorRebased,
    DestinationNotReady,
    DuplicateSuppressed,
    Event,
    LogGapFound,
    MessageDead,
    MessageDiscarded,
    MessageFiltered,
    MessageHandled,
    MessageHeld,
    MessageRouted,
    MessagesPublished,
    RecordParked,
    RecordsRepublished,
    RunRolledBack,
    SettlementRefused,
    WorkerFaltered,
)
from pillarbox.observe.observer import Observer, Observers

__all__ = [
    "AlertFailed",
    "AttemptFailed",
    "BreakerClosed",
    "BreakerOpened",
    "BrokerAway",
    "CursorRebased",
    "DestinationNotReady",
    "DuplicateSuppressed",
    "Event",
    "LogGapFound",
    "MessageDead",
    "MessageDiscarded",
    "MessageFiltered",
    "MessageHandled",
    "MessageHeld",
    "MessageRouted",
    "MessagesPublished",
    "Observer",
    "Observers",
    "RecordParked",
    "RecordsRepublished",
    "RunRolledBack",
    "SettlementRefused",
    "WorkerFaltered",
]
