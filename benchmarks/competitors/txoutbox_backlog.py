"""A backlog in txoutbox's table, by its own insert, multiplied in the database."""

from __future__ import annotations

from typing import Any

from benchmarks.order import BODY, KEYS


async def fill(storage: Any, pool: Any, count: int) -> None:
    """Create the table and write ``count`` events of 1,000 keys."""
    await storage.create_schema()
    async with pool.acquire() as connection, connection.transaction():
        await storage.insert(connection, "order", BODY, key="o-1", headers={"source": "shop"})
    await pool.execute(
        "INSERT INTO outbox (topic, key, payload, headers) SELECT topic, 'o-' || n % $2, payload, headers"
        " FROM outbox, generate_series(2, $1::int) AS n ORDER BY n",
        count,
        KEYS,
    )
    await pool.execute("VACUUM ANALYZE outbox")
    await pool.execute("CHECKPOINT")
