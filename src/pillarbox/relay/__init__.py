"""Relays: from the outbox to the broker, at least once and in each key's order.

Guarantee: of a key nothing is published before what is earlier was confirmed; duplicates per crash are bounded.
Not promised: that each message is published only once.
Source: microservices.io, *Polling publisher* and *Transaction log tailing*; the reading order is relay, dispatch,
waves, polling, transfer, then watermark, sequence, and released and handover where they are called; upkeep.
"""

from pillarbox.relay.dispatch import Dispatch
from pillarbox.relay.handover import HandOver, RelayMarks
from pillarbox.relay.log_settings import LogSettings
from pillarbox.relay.polling import PollingPublication
from pillarbox.relay.reader import (
    HeldRecords,
    OutboxTransfer,
    PendingRecord,
    ReadPlan,
    SlotReader,
)
from pillarbox.relay.relay import SCOPE, Publication, Relay
from pillarbox.relay.released import Released
from pillarbox.relay.sequence import SequenceFeed, SequenceReader
from pillarbox.relay.settings import RelayKind, RelaySettings
from pillarbox.relay.transfer import TransferPublication
from pillarbox.relay.watermark import WatermarkPublication

__all__ = [
    "SCOPE",
    "Dispatch",
    "HandOver",
    "HeldRecords",
    "LogSettings",
    "OutboxTransfer",
    "PendingRecord",
    "PollingPublication",
    "Publication",
    "ReadPlan",
    "Relay",
    "RelayKind",
    "RelayMarks",
    "RelaySettings",
    "Released",
    "SequenceFeed",
    "SequenceReader",
    "SlotReader",
    "TransferPublication",
    "WatermarkPublication",
]
