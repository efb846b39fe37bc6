"""Redis Streams as a broker: each channel is a fixed number of streams, a key always goes to the same one.

Guarantee: a confirmed message is in its stream, and stays until every declared consumer has acknowledged it.
Not promised: that Redis keeps what it confirmed through a crash; that takes ``appendonly yes``, ``appendfsync always``.
Source: Redis, *Streams*; the reading order is layout, entries, scripts, connection, sender, groups, receiver,
broker; diagnosis.
"""

from pillarbox.brokers.redis.broker import RedisBroker, redis_broker

__all__ = ["RedisBroker", "redis_broker"]
