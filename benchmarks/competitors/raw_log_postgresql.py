"""The floor: psycopg's own libpq reads our outbox from the log by pgoutput, decodes each row and counts it.

No leases, no messages made, nothing deleted; it confirms what it has read every 500 rows.
"""

from __future__ import annotations

import asyncio
import struct
import time

import psycopg
from psycopg import pq

from benchmarks.competitors.backlog import fill_one_by_one
from benchmarks.measure import Stopwatch, task
from pillarbox import Pillarbox

START = "START_REPLICATION SLOT bench LOGICAL 0/0 (proto_version '1', publication_names 'bench')"
CONFIRM_EVERY = 500
_SINCE_2000 = 946_684_800
_U16, _U32, _U64 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_STATUS = struct.Struct(">cQQQqB")
_WAL_DATA, _HEADER_BYTES = ord("w"), 25
_COMMIT, _INSERT, _NULL = ord("C"), ord("I"), ord("n")


def decode(payload: memoryview) -> list[bytes | None]:
    """Return the columns of an insert, of which pgoutput gives the text."""
    (columns,) = _U16.unpack_from(payload, 6)
    offset, row = 8, list[bytes | None]()
    for _ in range(columns):
        kind, offset = payload[offset], offset + 1
        if kind == _NULL:
            row.append(None)
            continue
        (length,) = _U32.unpack_from(payload, offset)
        offset += 4 + length
        row.append(bytes(payload[offset - length : offset]))
    return row


class LogReader:
    """The stream of one slot."""

    def __init__(self, url: str) -> None:
        self._pgconn = psycopg.connect(url, replication="database", autocommit=True).pgconn
        self._readable = asyncio.Event()
        self.flushed = 0

    def start(self) -> None:
        """Begin to stream, without blocking from now on."""
        self._pgconn.send_query(START.encode())
        self._pgconn.flush()
        result = self._pgconn.get_result()
        assert result is not None
        assert result.status == pq.ExecStatus.COPY_BOTH, result.error_message
        self._pgconn.nonblocking = 1
        asyncio.get_running_loop().add_reader(self._pgconn.socket, self._readable.set)

    async def read(self) -> int:
        """Wait for data; return how many rows it held."""
        rows = 0
        while True:
            length, data = self._pgconn.get_copy_data(1)
            if length > 0:
                rows += self._take(data)
                continue
            if rows:
                return rows
            self._readable.clear()
            await self._readable.wait()
            self._pgconn.consume_input()

    def _take(self, data: memoryview) -> int:
        if data[0] != _WAL_DATA:
            return 0
        kind = data[_HEADER_BYTES]
        if kind == _INSERT:
            decode(data[_HEADER_BYTES:])
            return 1
        if kind == _COMMIT:
            (self.flushed,) = _U64.unpack_from(data, _HEADER_BYTES + 10)
        return 0

    def confirm(self) -> None:
        """Tell the server that it may forget what was read."""
        now = int((time.time() - _SINCE_2000) * 1_000_000)
        self._pgconn.put_copy_data(_STATUS.pack(b"r", self.flushed, self.flushed, self.flushed, now, 0))
        self._pgconn.flush()

    def close(self) -> None:
        """End the stream."""
        asyncio.get_running_loop().remove_reader(self._pgconn.socket)
        self._pgconn.finish()


async def main() -> None:
    """Write the backlog behind a slot and read it."""
    todo = task()
    box = Pillarbox("bench", store=todo.url)
    await box.migrate()
    with psycopg.connect(todo.url, autocommit=True) as connection:
        connection.execute(
            "CREATE PUBLICATION bench FOR TABLE pillarbox_outbox"
            " WITH (publish = 'insert', publish_via_partition_root = true)"
        )
        connection.execute("SELECT pg_create_logical_replication_slot('bench', 'pgoutput')")
    await fill_one_by_one(box, todo.count)
    await box.store.close()
    reader = LogReader(todo.url)
    stopwatch = Stopwatch(todo)
    stopwatch.start()
    reader.start()
    count = confirmed = 0
    while count < todo.count:
        count += await reader.read()
        if count - confirmed >= CONFIRM_EVERY:
            confirmed = count
            reader.confirm()
    stopwatch.report(count)
    reader.close()


asyncio.run(main())
