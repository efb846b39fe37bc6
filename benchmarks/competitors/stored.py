"""What really lies in a broker after a run of ours."""

from __future__ import annotations

from pillarbox.brokers.nats.api import JetStream
from pillarbox.brokers.nats.connection import NatsConnection
from pillarbox.brokers.nats.layout import stream_of
from pillarbox.brokers.redis.connection import RedisConnection
from pillarbox.brokers.redis.layout import streams_of


async def count_stored(broker: str, url: str, channel: str) -> int:
    """Count the messages of a channel."""
    if broker == "redis":
        redis = RedisConnection(url)
        lengths = await redis.execute_all([("XLEN", stream) for stream in streams_of(channel)])
        await redis.close()
        return sum(lengths)
    nats = NatsConnection([url])
    found = await JetStream(nats).stream(stream_of(channel))
    await nats.close()
    return 0 if found is None else int(found["state"]["messages"])
