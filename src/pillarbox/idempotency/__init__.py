"""Idempotent receiver and idempotent operations: what is delivered or tried again has no second effect.

Guarantee: effects in the handler's transaction happen once per consumer while the inbox keeps the message's id; a late
event overwrites nothing newer, and a late increment is added.
Not promised: the same of effects outside the database; use the idempotency key there, and ``call_once``.
Source: EIP, *Idempotent Receiver*; microservices.io, *Idempotent Consumer*; Stripe's *Idempotent Requests*. The
reading order is store, business_key, settings, upkeep; target, inserting, guarding, versions, applying, states,
advancing; calls, outside_calls.
"""

from pillarbox.idempotency.advancing import advance_state
from pillarbox.idempotency.applying import apply_once
from pillarbox.idempotency.calls import CallStore, DoubtfulCall
from pillarbox.idempotency.inserting import insert_once
from pillarbox.idempotency.outcomes import Application, Insertion, StateAdvance, VersionedWrite
from pillarbox.idempotency.outside_calls import call_once
from pillarbox.idempotency.settings import InboxSettings
from pillarbox.idempotency.states import StateMachine
from pillarbox.idempotency.store import AttemptStore, ClaimStore, InboxStore, OperationStore, Suspect, Trial
from pillarbox.idempotency.versions import update_if_version, upsert_if_newer

__all__ = [
    "Application",
    "AttemptStore",
    "CallStore",
    "ClaimStore",
    "DoubtfulCall",
    "InboxSettings",
    "InboxStore",
    "Insertion",
    "OperationStore",
    "StateAdvance",
    "StateMachine",
    "Suspect",
    "Trial",
    "VersionedWrite",
    "advance_state",
    "apply_once",
    "call_once",
    "insert_once",
    "update_if_version",
    "upsert_if_newer",
]
