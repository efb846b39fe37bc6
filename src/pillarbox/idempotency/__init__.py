"""Idempotent receiver: a message that is delivered again has no second effect.

Guarantee: effects in the handler's transaction happen once per consumer while the inbox keeps the message's id.
Not promised: the same of effects outside the database; use the idempotency key there.
Source: EIP, *Idempotent Receiver*; microservices.io, *Idempotent Consumer*; the reading order is store.
"""

from pillarbox.idempotency.store import AttemptStore, ClaimStore, InboxStore, Suspect, Trial

__all__ = ["AttemptStore", "ClaimStore", "InboxStore", "Suspect", "Trial"]
