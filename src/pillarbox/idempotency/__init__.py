"""Idempotent receiver: a message that is delivered again has no second effect.

Guarantee: effects in the handler's transaction happen once per consumer while the inbox keeps the message's id.
Not promised: the same of effects outside the database; use the idempotency key there.
Source: EIP, *Idempotent Receiver*; microservices.io, *Idempotent Consumer*; the reading order is store, business_key,
settings, upkeep.
"""

from pillarbox.idempotency.business_key import ROW_PREFIX, row_of
from pillarbox.idempotency.settings import InboxSettings
from pillarbox.idempotency.store import AttemptStore, ClaimStore, InboxStore, Suspect, Trial
from pillarbox.idempotency.upkeep import InboxUpkeep

__all__ = [
    "ROW_PREFIX",
    "AttemptStore",
    "ClaimStore",
    "InboxSettings",
    "InboxStore",
    "InboxUpkeep",
    "Suspect",
    "Trial",
    "row_of",
]
