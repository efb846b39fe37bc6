"""A backlog in our outbox, written by the database itself."""

from __future__ import annotations

from sqlalchemy import text

from benchmarks.order import BODY, KEYS
from benchmarks.wal import each_committed
from pillarbox import Pillarbox
from pillarbox.message import new_message_id

_COLUMNS = (
    "id, aggregate_type, aggregate_id, event_type, payload, content_type, headers,"
    " destination, message_key, slot, created_at"
)
_VALUES = (
    "{id}, 'order', 'o-' || n % :keys, 'order.placed', :body, 'application/json',"
    ' \'{{"source":"shop","time":"2026-01-01T00:00:00.000000Z","schemaversion":"1","correlationid":"\' || {id} ||'
    " '\",\"hop\":\"0\"}}', 'topic:order', 'o-' || n % :keys, n % :keys % 64, 1767225600000000 + n"
)
_ID = {
    "postgresql": ":start || lpad(to_hex(n), 12, '0')",
    "sqlite": ":start || printf('%012x', n)",
}
_NUMBERS = {
    "postgresql": "SELECT n FROM generate_series(1, :count) AS n",
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)"
    " SELECT n FROM numbers",
}


async def fill_one_by_one(box: Pillarbox, count: int) -> None:
    """Write ``count`` events into tables that are there, each in a transaction of its own; PostgreSQL only."""
    values = _VALUES.format(id=f"'{new_message_id()[:24]}' || lpad(to_hex(n), 12, '0')")
    values = values.replace(":keys", str(KEYS)).replace(":body", f"convert_to('{BODY.decode()}', 'UTF8')")
    insert = each_committed(f"INSERT INTO pillarbox_outbox ({_COLUMNS}) SELECT {values}", count)
    async with box.store.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.exec_driver_sql(insert)


async def fill(box: Pillarbox, count: int) -> None:
    """Create the tables and write ``count`` events of 1,000 keys."""
    await box.migrate()
    kind = box.store.engine.dialect.name
    values = _VALUES.format(id=_ID[kind])
    insert = text(f"INSERT INTO pillarbox_outbox ({_COLUMNS}) SELECT {values} FROM ({_NUMBERS[kind]}) AS numbers")
    start = new_message_id()[:24]
    async with box.transaction() as tx:
        await tx.execute(insert, {"count": count, "keys": KEYS, "body": BODY, "start": start})
    if kind == "postgresql":
        async with box.store.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.execute(text("VACUUM ANALYZE pillarbox_outbox"))
            await connection.execute(text("CHECKPOINT"))
