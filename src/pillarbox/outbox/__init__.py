"""Transactional outbox: a state change and its messages commit together or not at all.

Guarantee: a record appended in a transaction that commits is published at least once; of a key, in commit order.
Not promised: that it is published only once; pair it with the inbox.
Source: microservices.io, *Transactional outbox*; the reading order is outbox, record, store, numbers,
parked, published.
"""

from pillarbox.outbox.numbers import KeyNumbers
from pillarbox.outbox.outbox import DEFAULT_OPTIONS, NOWHERE, Origin, Outbox, PublishOptions
from pillarbox.outbox.parked import ParkedRecord, ParkedRecords
from pillarbox.outbox.partitions import OutboxPartitions, Partition
from pillarbox.outbox.published import KeptRecords, PublishedRecords
from pillarbox.outbox.record import LOCK_BUCKETS, SLOTS, OutboxRecord, bucket_for, bucket_of, record_of
from pillarbox.outbox.store import OutboxState, OutboxStore

__all__ = [
    "DEFAULT_OPTIONS",
    "LOCK_BUCKETS",
    "NOWHERE",
    "SLOTS",
    "KeptRecords",
    "KeyNumbers",
    "Origin",
    "Outbox",
    "OutboxPartitions",
    "OutboxRecord",
    "OutboxState",
    "OutboxStore",
    "ParkedRecord",
    "ParkedRecords",
    "Partition",
    "PublishOptions",
    "PublishedRecords",
    "bucket_for",
    "bucket_of",
    "record_of",
]
