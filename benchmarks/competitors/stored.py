"""What really lies in a broker after a run of ours."""

from __future__ import annotations

from benchmarks.logs import count_records
from pillarbox.brokers.nats.api import JetStream
from pillarbox.brokers.nats.connection import NatsConnection
from pillarbox.brokers.nats.layout import stream_of
from pillarbox.brokers.redis.connection import RedisConnection
from pillarbox.brokers.redis.layout import streams_of
from tests.servers import KafkaServer, Server


async def count_stored(server: Server, channel: str) -> int:
    """Count the messages of a channel."""
    if isinstance(server, KafkaServer):
        return count_records(server)
    if server.name == "redis":
        redis = RedisConnection(server.url)
        lengths = await redis.execute_all([("XLEN", stream) for stream in streams_of(channel)])
        await redis.close()
        return sum(lengths)
    nats = NatsConnection([server.url])
    found = await JetStream(nats).stream(stream_of(channel))
    await nats.close()
    return 0 if found is None else int(found["state"]["messages"])
