"""Holding: messages put aside in the consumer's database while their key may not run.

Guarantee: of a held key nothing runs before its head; nothing appended to a hold is left behind when the hold ends.
Not promised: order between different keys.
Source: Resequencer and Message Store of EIP, applied to retries; the reading order is record, store, waits, decisions.
"""

from pillarbox.holding.record import (
    EVERYTHING,
    OWN,
    STOP,
    FailedAttempt,
    HeldMessage,
    HeldState,
    Hold,
    HoldState,
    channel_hold_key_of,
    hold_key_of,
    is_stop_key,
    own_hold_key,
    stop_key_of,
    storable,
)
from pillarbox.holding.store import HeldQueue, HoldingState, HoldingStore
from pillarbox.holding.waits import Waiting, WaitsState, WaitStore

__all__ = [
    "EVERYTHING",
    "OWN",
    "STOP",
    "FailedAttempt",
    "HeldMessage",
    "HeldQueue",
    "HeldState",
    "Hold",
    "HoldState",
    "HoldingState",
    "HoldingStore",
    "WaitStore",
    "Waiting",
    "WaitsState",
    "channel_hold_key_of",
    "hold_key_of",
    "is_stop_key",
    "own_hold_key",
    "stop_key_of",
    "storable",
]
