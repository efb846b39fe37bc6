"""Holding: messages put aside in the consumer's database while their key may not run.

Guarantee: of a held key nothing runs before its head; nothing appended to a hold is left behind when the hold ends.
Not promised: order between different keys.
Source: Resequencer and Message Store of EIP, applied to retries; the reading order is record, store, decisions.
"""

from pillarbox.holding.decisions import HoldDecisions, LockedHold
from pillarbox.holding.record import (
    FailedAttempt,
    HeldMessage,
    HeldState,
    Hold,
    HoldState,
    hold_key_of,
    own_hold_key,
    storable,
)
from pillarbox.holding.store import HeldQueue, HoldingState, HoldingStore

__all__ = [
    "FailedAttempt",
    "HeldMessage",
    "HeldQueue",
    "HeldState",
    "Hold",
    "HoldDecisions",
    "HoldState",
    "HoldingState",
    "HoldingStore",
    "LockedHold",
    "hold_key_of",
    "own_hold_key",
    "storable",
]
