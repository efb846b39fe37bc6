"""A Redis stream as FastStream writes it."""

from __future__ import annotations

from typing import Any

from benchmarks.order import body_of, key_of
from benchmarks.streams import GROUP, STREAM

AT_ONCE = 500
HEADERS = {"content-type": "application/json"}


async def fill_redis(server: Any, count: int) -> None:
    """Append ``count`` orders to the stream, as FastStream reads them."""
    from faststream.redis.parser import BinaryMessageFormatV1
    from redis.asyncio import Redis

    redis = Redis.from_url(server.url)
    await redis.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    for start in range(0, count, AT_ONCE):
        async with redis.pipeline(transaction=False) as pipeline:
            for number in range(start, min(start + AT_ONCE, count)):
                packed = await BinaryMessageFormatV1.encode(
                    message=body_of(number), reply_to=None, headers=HEADERS, correlation_id=key_of(number)
                )
                pipeline.xadd(STREAM, {"__data__": packed})
            await pipeline.execute()
    await redis.aclose()
