"""Pillarbox: the reliability layer between a Python service's database and its message broker.

Guarantee: an event is published if and only if its transaction commits; handled once in effect, or it is a dead letter.
Not promised: exactly-once delivery; effects outside the consumer's database are at least once.
Source: the design of the way of a message: outbox, relay, channel, consumer, holding, deadletter.
"""

from pillarbox.alerts import Alert, AlertRules, LogAlert, WebhookAlert
from pillarbox.app import Pillarbox, Settings
from pillarbox.consumer import Context, Handlers
from pillarbox.deadletter import DeadLetterFilter
from pillarbox.idempotency import InboxSettings
from pillarbox.message import Cause, command, event
from pillarbox.ordering import ByKey, BySequence, Causal, GapPolicy, SingleConsumer, Unordered
from pillarbox.relay import RelaySettings
from pillarbox.retry import CircuitBreaker, Retry, permanent, transient
from pillarbox.routing import ContentBasedRouter, MessageFilter, RecipientList, WireTap
from pillarbox.saga import Saga, SagaContext, StepFailed

__all__ = [
    "Alert",
    "AlertRules",
    "ByKey",
    "BySequence",
    "Causal",
    "Cause",
    "CircuitBreaker",
    "ContentBasedRouter",
    "Context",
    "DeadLetterFilter",
    "GapPolicy",
    "Handlers",
    "InboxSettings",
    "LogAlert",
    "MessageFilter",
    "Pillarbox",
    "RecipientList",
    "RelaySettings",
    "Retry",
    "Saga",
    "SagaContext",
    "Settings",
    "SingleConsumer",
    "StepFailed",
    "Unordered",
    "WebhookAlert",
    "WireTap",
    "command",
    "event",
    "permanent",
    "transient",
]
