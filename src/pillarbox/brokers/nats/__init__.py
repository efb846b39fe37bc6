"""NATS JetStream as a broker: each channel is a stream, its partitions are subjects, a consumer pulls each by itself.

Guarantee: a confirmed message is in its stream, and stays until every declared consumer has acknowledged it.
Not promised: that NATS keeps through a power failure what it confirmed since it last synced its files.
Source: NATS, *JetStream*; the reading order is layout, headers, connection, api, consumers, sender, pull, receiver,
broker; diagnosis.
"""

from pillarbox.brokers.nats.broker import NatsBroker, nats_broker

__all__ = ["NatsBroker", "nats_broker"]
