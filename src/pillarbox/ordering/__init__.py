"""Ordering: which messages may run side by side, and which must wait for each other. Pure decisions.

Guarantee: messages of one key are in one lane, in the order they came.
Not promised: order between keys, unless a consumer asks for the order of causes, or to be alone.
Source: EIP, *Message Sequence*; the reading order is strategies, lanes, causes.
"""

from pillarbox.ordering.causes import (
    FIRST_LOOK,
    Decision,
    GoToTheDead,
    Pass,
    Place,
    Trouble,
    Wait,
    arranged,
    decide,
    is_circular,
)
from pillarbox.ordering.lanes import RunSize, lane_of
from pillarbox.ordering.strategies import ByKey, Causal, Ordering, SingleConsumer, Unordered, WhenMissing

__all__ = [
    "FIRST_LOOK",
    "ByKey",
    "Causal",
    "Decision",
    "GoToTheDead",
    "Ordering",
    "Pass",
    "Place",
    "RunSize",
    "SingleConsumer",
    "Trouble",
    "Unordered",
    "Wait",
    "WhenMissing",
    "arranged",
    "decide",
    "is_circular",
    "lane_of",
]
