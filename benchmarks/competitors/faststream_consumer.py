"""FastStream's consumer with a handler that only counts: one message at a time, acknowledged as it does by itself."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.competitors.faststream_fill import fill_redis
from benchmarks.measure import Stopwatch, task
from benchmarks.order import body_of, key_of
from benchmarks.streams import GROUP, STREAM, private

AT_ONCE = 500
PREFETCH = 100
WITHIN_S = 300
HEADERS = {"content-type": "application/json"}


async def fill_nats(server: Any, count: int) -> None:
    """Publish ``count`` orders to the stream."""
    import nats

    client = await nats.connect(server.url)
    stream = client.jetstream()
    await stream.add_stream(name=STREAM, subjects=[STREAM])
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(
            *(
                stream.publish(STREAM, body_of(number), headers=HEADERS)
                for number in range(start, min(start + AT_ONCE, count))
            )
        )
    await client.close()


async def fill_kafka(server: Any, count: int) -> None:
    """Send ``count`` orders to a topic of as many partitions as ours has."""
    from aiokafka import AIOKafkaProducer
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    admin = AIOKafkaAdminClient(bootstrap_servers=server.address)
    await admin.start()
    await admin.create_topics([NewTopic(STREAM, num_partitions=16, replication_factor=1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=server.address, acks="all")
    await producer.start()
    headers = [(name, value.encode()) for name, value in HEADERS.items()]
    for start in range(0, count, AT_ONCE):
        sent = [
            await producer.send(STREAM, body_of(number), key=key_of(number).encode(), headers=headers)
            for number in range(start, min(start + AT_ONCE, count))
        ]
        await asyncio.gather(*sent)
    await producer.stop()


async def fill_rabbitmq(server: Any, count: int) -> None:
    """Publish ``count`` orders to a quorum queue."""
    from faststream.rabbit import RabbitBroker

    broker = RabbitBroker(server.url, logger=None)
    await broker.start()
    queue = _queue()
    await broker.declare_queue(queue)
    for start in range(0, count, AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for number in range(start, min(start + AT_ONCE, count)):
                publishing = broker.publish(body_of(number), queue=queue, persist=True, content_type="application/json")
                group.create_task(publishing)
    await broker.stop()


def subscriber(kind: str, server: Any) -> tuple[Any, Any]:
    """Return a broker, and the decorator of its subscriber."""
    if kind == "redis":
        from faststream.redis import RedisBroker, StreamSub

        redis = RedisBroker(server.url, logger=None)
        stream = StreamSub(STREAM, group=GROUP, consumer="one", last_id=">", max_records=AT_ONCE)
        return redis, redis.subscriber(stream=stream)
    if kind == "nats":
        from faststream.nats import NatsBroker, PullSub

        nats = NatsBroker(server.url, logger=None)
        return nats, nats.subscriber(STREAM, stream=STREAM, durable=GROUP, pull_sub=PullSub(batch_size=AT_ONCE))
    if kind == "kafka":
        from faststream.kafka import KafkaBroker

        kafka = KafkaBroker(server.address, logger=None)
        return kafka, kafka.subscriber(STREAM, group_id=GROUP, auto_offset_reset="earliest")
    from faststream.rabbit import Channel, RabbitBroker

    rabbit = RabbitBroker(server.url, default_channel=Channel(prefetch_count=PREFETCH), logger=None)
    return rabbit, rabbit.subscriber(_queue())


def _queue() -> Any:
    from faststream.rabbit import QueueType, RabbitQueue

    return RabbitQueue(STREAM, queue_type=QueueType.QUORUM, durable=True)


FILL = {"redis": fill_redis, "nats": fill_nats, "kafka": fill_kafka, "rabbitmq": fill_rabbitmq}


async def main() -> None:
    """Fill the stream and handle everything."""
    todo = task()
    kind = todo.options["broker"]
    with private(kind) as server:
        await FILL[kind](server, todo.count)
        broker, subscribed = subscriber(kind, server)
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
        async with asyncio.timeout(WITHIN_S):
            await done.wait()
        stopwatch.report(handled)
        await broker.stop()


asyncio.run(main())
