"""FastStream on a Redis stream with an inbox written by hand: a transaction for each message, eight workers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from faststream import Context
from faststream.redis import RedisBroker, StreamSub
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.competitors.faststream_fill import fill_redis
from benchmarks.measure import Stopwatch, task
from benchmarks.order import ACCOUNTS
from benchmarks.streams import GROUP, STREAM, private

WORKERS = 8
AT_ONCE = 500
WITHIN_S = 300
CREATE = (
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, orders INTEGER NOT NULL)",
    f"INSERT INTO accounts SELECT n, 0 FROM generate_series(0, {ACCOUNTS - 1}) AS n",
    "CREATE TABLE inbox (consumer VARCHAR(200) NOT NULL, message_id VARCHAR(200) NOT NULL,"
    " processed_at BIGINT NOT NULL, PRIMARY KEY (consumer, message_id))",
)
RECORD = text(
    "INSERT INTO inbox (consumer, message_id, processed_at) VALUES (:consumer, :id, :now) ON CONFLICT DO NOTHING"
)
UPDATE = text("UPDATE accounts SET orders = orders + 1 WHERE id = :id")


async def main() -> None:
    """Fill the stream and handle everything; see that each message counted once."""
    todo = task()
    engine = create_async_engine(todo.url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=WORKERS)
    async with engine.begin() as tx:
        for statement in CREATE:
            await tx.execute(text(statement))
    with private("redis") as server:
        await fill_redis(server, todo.count)
        broker = RedisBroker(server.url, logger=None)
        stream = StreamSub(STREAM, group=GROUP, consumer="one", last_id=">", max_records=AT_ONCE)
        handled, done = 0, asyncio.Event()

        @broker.subscriber(stream=stream, max_workers=WORKERS)
        async def count_orders(body: dict[str, Any], message_id: str = Context("message.message_id")) -> None:
            nonlocal handled
            async with engine.begin() as tx:
                identity = {"consumer": "count-orders", "id": message_id, "now": time.time_ns() // 1000}
                if (await tx.execute(RECORD, identity)).rowcount:
                    await tx.execute(UPDATE, {"id": int(body["order_id"][2:]) % ACCOUNTS})
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
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT sum(orders) FROM accounts"))).scalar() == todo.count
    await engine.dispose()


asyncio.run(main())
