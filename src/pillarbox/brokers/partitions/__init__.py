"""Channels in a fixed number of partitions, each read by one instance of a consumer at a time.

Guarantee: nobody reads a partition who does not lease it, as far as leases reach; a key always lies in one partition.
Not promised: that a paused former owner notices at once; what it took meanwhile each adapter must find again.
Source: Kafka's partitions and consumer groups; the reading order is leases, share, shares.
"""

from pillarbox.brokers.partitions.leases import PARTITIONS, PartitionLeases, partition_of, two_consumers
from pillarbox.brokers.partitions.share import Receipt, Share, by_place, hand_out, receipt_of
from pillarbox.brokers.partitions.shares import Shares

__all__ = [
    "PARTITIONS",
    "PartitionLeases",
    "Receipt",
    "Share",
    "Shares",
    "by_place",
    "hand_out",
    "partition_of",
    "receipt_of",
    "two_consumers",
]
