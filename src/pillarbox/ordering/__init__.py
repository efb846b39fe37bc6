"""Ordering: which messages may run side by side, and which must wait for each other. Pure decisions.

Guarantee: messages of one key are in one lane, in the order they came, or in that of their numbers.
Not promised: order between keys, unless a consumer asks for the order of causes, or to be alone.
Source: EIP, *Message Sequence* and *Resequencer*; the reading order is strategies, lanes, sequence, kept, causes.
"""

from pillarbox.ordering.kept import Kept
from pillarbox.ordering.lanes import RunSize, lane_of
from pillarbox.ordering.sequence import Missing, Position
from pillarbox.ordering.strategies import (
    ByKey,
    BySequence,
    Causal,
    GapPolicy,
    Ordering,
    SingleConsumer,
    Unordered,
    WhenMissing,
)

__all__ = [
    "ByKey",
    "BySequence",
    "Causal",
    "GapPolicy",
    "Kept",
    "Missing",
    "Ordering",
    "Position",
    "RunSize",
    "SingleConsumer",
    "Unordered",
    "WhenMissing",
    "lane_of",
]
