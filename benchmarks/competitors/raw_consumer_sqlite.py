"""The naive idempotent consumer on sqlite3 itself: a transaction for each message, no event loop and no threads."""

from __future__ import annotations

import sqlite3
import time

import msgspec

from benchmarks.competitors.orders import (
    CREATE_ACCOUNTS,
    CREATE_INBOX,
    FILL_ACCOUNTS,
    OrderPlaced,
    account_of,
    messages,
)
from benchmarks.measure import Stopwatch, task

RECORD = "INSERT INTO inbox (consumer, message_id, processed_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
UPDATE = "UPDATE accounts SET orders = orders + 1 WHERE id = ?"


def main() -> None:
    """Handle all messages."""
    todo = task()
    feed = messages(todo.count)
    connection = sqlite3.connect(todo.file, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    for statement in (CREATE_ACCOUNTS, CREATE_INBOX, FILL_ACCOUNTS["sqlite"]):
        connection.execute(statement)
    decode = msgspec.json.Decoder(OrderPlaced).decode
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    count = 0
    for message in feed:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute(RECORD, ("count-orders", message.id, time.time_ns() // 1000)).rowcount:
            connection.execute(UPDATE, (account_of(decode(message.body).order_id),))
        connection.execute("COMMIT")
        count += 1
    stopwatch.report(count)
    connection.close()


main()
