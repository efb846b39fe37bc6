"""FastStream's consumer with a handler that only counts, one message at a time, each acknowledged."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.measure import Stopwatch, task
from benchmarks.order import body_of, key_of
from benchmarks.streams import GROUP, STREAM, private

AT_ONCE = 500


async def fill_redis(url: str, count: int) -> None:
    """Append ``count`` orders to the stream, as FastStream reads them."""
    from faststream.redis.parser import BinaryMessageFormatV1
    from redis.asyncio import Redis

    redis = Redis.from_url(url)
    await redis.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    headers = {"content-type": "application/json"}
    for start in range(0, count, AT_ONCE):
        async with redis.pipeline(transaction=False) as pipeline:
            for number in range(start, min(start + AT_ONCE, count)):
                of = {**headers, "key": key_of(number)}
                packed = await BinaryMessageFormatV1.encode(
                    message=body_of(number), reply_to=None, headers=of, correlation_id="c"
                )
                pipeline.xadd(STREAM, {"__data__": packed})
            await pipeline.execute()
    await redis.aclose()


async def fill_nats(url: str, count: int) -> None:
    """Publish ``count`` orders to the stream."""
    import nats

    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(name=STREAM, subjects=[STREAM])
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(
            *(
                stream.publish(STREAM, body_of(number), headers={"content-type": "application/json"})
                for number in range(start, min(start + AT_ONCE, count))
            )
        )
    await client.close()


def redis_subscriber(url: str) -> tuple[Any, Any]:
    """Return a broker, and the decorator of its subscriber."""
    from faststream.redis import RedisBroker, StreamSub

    broker = RedisBroker(url, logger=None)
    stream = StreamSub(STREAM, group=GROUP, consumer="one", last_id=">", max_records=AT_ONCE)
    return broker, broker.subscriber(stream=stream)


def nats_subscriber(url: str) -> tuple[Any, Any]:
    """Return a broker, and the decorator of its subscriber."""
    from faststream.nats import NatsBroker, PullSub

    broker = NatsBroker(url, logger=None)
    return broker, broker.subscriber(STREAM, stream=STREAM, durable=GROUP, pull_sub=PullSub(batch_size=AT_ONCE))


async def main() -> None:
    """Fill the stream and handle everything."""
    todo = task()
    kind = todo.options["broker"]
    with private(kind) as server:
        await (fill_redis if kind == "redis" else fill_nats)(server.url, todo.count)
        broker, subscribed = (redis_subscriber if kind == "redis" else nats_subscriber)(server.url)
        handled, done = 0, asyncio.Event()

        @subscribed
        async def count(body: dict[str, Any]) -> None:
            nonlocal handled
            handled += 1
            if handled >= todo.count:
                done.set()

        stopwatch = Stopwatch(todo)
        stopwatch.start()
        await broker.start()
        await done.wait()
        stopwatch.report(handled)
        await broker.stop()


asyncio.run(main())
