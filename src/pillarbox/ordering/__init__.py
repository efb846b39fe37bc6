"""Ordering: which messages may run side by side, and which must wait for each other. Pure decisions.

Guarantee: messages of one key are in one lane, in the order they came.
Not promised: order between keys.
Source: EIP, *Message Sequence*; the reading order is strategies, lanes.
"""

from pillarbox.ordering.lanes import RunSize, lane_of
from pillarbox.ordering.strategies import ByKey, Ordering, Unordered

__all__ = ["ByKey", "Ordering", "RunSize", "Unordered", "lane_of"]
