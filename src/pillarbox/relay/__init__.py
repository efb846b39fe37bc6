"""Relays: from the outbox to the broker, at least once and in each key's order.

Guarantee: of a key nothing is published before what is earlier was confirmed; duplicates per crash are bounded.
Not promised: that each message is published only once.
Source: microservices.io, *Polling publisher*; the reading order is polling, publication, waves, reader.
"""

from pillarbox.relay.polling import SCOPE, PollingRelay
from pillarbox.relay.publication import Publication, SendingPublication, TransferPublication
from pillarbox.relay.reader import OutboxTransfer, PendingRecord, ReadPlan, SlotReader, Transferred
from pillarbox.relay.settings import RelaySettings

__all__ = [
    "SCOPE",
    "OutboxTransfer",
    "PendingRecord",
    "PollingRelay",
    "Publication",
    "ReadPlan",
    "RelaySettings",
    "SendingPublication",
    "SlotReader",
    "TransferPublication",
    "Transferred",
]
