"""The stream of a log: read as it arrives, kept within bounds, and answered for as long as it is wanted.

The event loop calls; no task is needed. While the buffer is full the socket is not read, so the server waits and spills
to its own disk; it is told all the same that we live.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct

import psycopg

from pillarbox.errors import InternalError, PillarboxError, StoreUnavailableError
from pillarbox.relay.log_reader import Checkpoint, LogEntry, LogTransaction
from pillarbox.relay.reader import PendingRecord
from pillarbox.stores.postgresql.pgoutput import Begin, Commit, Decoder, Insert, LogicalMessage
from pillarbox.stores.postgresql.replication import NAME, ReplicationConnection

AT_A_TURN = 500
"""Messages decoded before other work of the event loop has its turn."""
HURRIED_REQUESTS = 5
"""So many requests for an answer, each at once after the last, come from a server that shuts down."""

_DATA_HEADER = 25
_KEEPALIVE = Struct(">cQQ?")
_STATUS = Struct(">cQQQq?")
_DATA, _KEEPALIVE_KIND = b"wk"
MICROS_1970_TO_2000 = 946_684_800_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """How much a stream keeps ready.

    Attributes:
        records: beyond so many it stops reading; it reads on at half of it.
        bytes: the same, in bytes of what the server sent.
        status_every_s: how often the server is told that the reader lives.
    """

    records: int = 3000
    bytes: int = 16 << 20
    status_every_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSource:
    """How records are found in what the log says.

    Attributes:
        decoder: takes messages apart; made anew for each stream, since it learns what the tables look like.
        of_row: makes a record of a row of the outbox.
        of_message: makes a record of a logical message; ``None`` for one that is somebody else's.
    """

    decoder: Decoder
    of_row: Callable[[tuple[bytes | None, ...]], PendingRecord]
    of_message: Callable[[LogicalMessage], PendingRecord | None]


class LogStream:
    """What one ``START_REPLICATION`` sends."""

    def __init__(
        self,
        connection: ReplicationConnection,
        *,
        records: RecordSource,
        limits: StreamLimits,
        checkpoint: Checkpoint,
        is_wanted: Callable[[], bool],
        on_arrival: Callable[[], None],
    ) -> None:
        """Read behind ``checkpoint`` for as long as ``is_wanted``; ``on_arrival`` is called when there is something."""
        self._connection = connection
        self._pgconn = connection.pgconn
        self._records = records
        self._limits = limits
        self._is_wanted = is_wanted
        self._on_arrival = on_arrival
        self._partial_lsn, self._partial_rows = checkpoint.partial_lsn, checkpoint.partial_rows
        self._confirmed = self._passed = checkpoint.flushed_lsn or 0
        self._entries: deque[LogEntry] = deque()
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._transaction: LogTransaction | None = None
        self._settled_before = 0
        self._failure: PillarboxError | None = None
        self._is_reading = self._is_draining = self._is_open = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor = -1
        self._heard_at = self._loop.time()
        self._hurry = (0, 0.0)

    def open(self) -> None:
        """Begin to read; the connection copies already."""
        self._is_open = True
        self._descriptor = self._pgconn.socket
        self._send_status(wants_answer=False)
        self._timer = self._loop.call_later(self._limits.status_every_s, self._tick)
        self._drain()

    def take_nowait(self, limit: int) -> Sequence[LogEntry]:
        """Return what has arrived.

        Raises:
            PillarboxError: reading has ended; says why.
        """
        if self._failure is not None:
            raise self._failure
        count = min(limit, len(self._entries))
        taken = [self._entries.popleft() for _ in range(count)]
        for _ in range(count):
            self._bytes -= self._sizes.popleft()
        if not self._is_reading and not self._is_draining and self._is_roomy:
            self._drain()
        return taken

    @property
    def passed_lsn(self) -> int | None:
        """Up to where everything has been taken."""
        return None if self._entries or self._transaction is not None or self._failure is not None else self._passed

    def confirm(self, lsn: int) -> None:
        """Tell the server at once, so that it can remove what lies before."""
        if lsn > self._confirmed:
            self._confirmed = lsn
            self._send_status(wants_answer=False)

    def close(self) -> None:
        """Stop reading; the connection stays to be closed by its owner."""
        if not self._is_open:
            return
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        self._is_reading = False

    # --- reading ---

    def _readable(self) -> None:
        try:
            self._pgconn.consume_input()
        except psycopg.Error as error:
            self._fail(self._connection.translate(error))
            return
        self._heard_at = self._loop.time()
        self._drain()

    def _drain(self) -> None:
        """Decode what the driver holds: a turn's worth, and nothing while the buffer is full."""
        self._is_draining = False
        if not self._is_open:
            return
        before = len(self._entries)
        try:
            state = self._decode_some()
        except psycopg.Error:
            self._fail(self._connection.refusal())
            return
        except PillarboxError as error:
            self._fail(error)
            return
        except Exception as error:  # whatever it is: what stays undecoded must not be passed
            self._fail(_unreadable(error))
            return
        if state == "ended":
            self._fail(self._connection.refusal())
            return
        self._read_when(wanted=state == "drained")
        if state == "more":
            self._is_draining = True
            self._loop.call_soon(self._drain)
        if len(self._entries) > before:
            self._on_arrival()

    def _decode_some(self) -> str:
        fetch = self._pgconn.get_copy_data
        for _ in range(AT_A_TURN):
            if self._is_full:
                return "full"
            size, data = fetch(1)
            if size == 0:
                return "drained"
            if size < 0:
                return "ended"
            if data[0] == _DATA:
                self._decode(bytes(data[_DATA_HEADER:]))
            elif data[0] == _KEEPALIVE_KIND:
                self._hear(bytes(data))
        return "more"

    def _hear(self, keepalive: bytes) -> None:
        _, wal_end, _, wants_answer = _KEEPALIVE.unpack_from(keepalive)
        if self._transaction is None:
            self._passed = max(self._passed, wal_end)
        if wants_answer:
            self._answer(wal_end)

    def _decode(self, data: bytes) -> None:
        decoded = self._records.decoder.decode(data)
        match decoded:
            case Insert():
                if (place := self._place()) is not None:
                    self._keep(self._records.of_row(decoded.values), place, len(data), in_table=True)
            case LogicalMessage():
                record = self._records.of_message(decoded) if decoded.is_transactional else None
                if record is not None and (place := self._place()) is not None:
                    self._keep(record, place, len(data), in_table=False)
            case Begin(final_lsn, committed_at, xid):
                self._transaction = LogTransaction(xid, final_lsn, committed_at + MICROS_1970_TO_2000)
                self._settled_before = self._partial_rows if final_lsn == self._partial_lsn else 0
            case Commit(_, end_lsn):
                if self._transaction is not None:
                    self._transaction.end_lsn = end_lsn
                self._transaction = None
                self._passed = max(self._passed, end_lsn)
            case None:
                pass

    def _place(self) -> LogTransaction | None:
        """Count one more record of the transaction; ``None`` when it was settled in an earlier life."""
        transaction = self._transaction
        if transaction is None:
            raise StoreUnavailableError(store=NAME, reason="a record arrived outside of a transaction")
        transaction.rows += 1
        return None if transaction.rows <= self._settled_before else transaction

    def _keep(self, record: PendingRecord, transaction: LogTransaction, size: int, *, in_table: bool) -> None:
        self._entries.append(LogEntry(record, transaction.rows, transaction, in_table))
        self._sizes.append(size)
        self._bytes += size

    @property
    def _is_full(self) -> bool:
        return len(self._entries) >= self._limits.records or self._bytes >= self._limits.bytes

    @property
    def _is_roomy(self) -> bool:
        return len(self._entries) * 2 <= self._limits.records and self._bytes * 2 <= self._limits.bytes

    def _read_when(self, *, wanted: bool) -> None:
        if wanted and not self._is_reading:
            self._loop.add_reader(self._descriptor, self._readable)
        elif not wanted and self._is_reading:
            self._loop.remove_reader(self._descriptor)
        self._is_reading = wanted

    # --- telling the server ---

    def _tick(self) -> None:
        """Tell the server that we live, if we should; notice when it does not."""
        every_s = self._limits.status_every_s
        if not self._is_wanted():
            self._fail(StoreUnavailableError(store=NAME, reason="the relay does not work any more"))
        elif self._is_reading and self._loop.time() - self._heard_at > 3 * every_s:
            self._fail(StoreUnavailableError(store=NAME, reason=f"silent for more than {3 * every_s:g} s"))
        else:
            if not self._is_reading:
                self._heard_at = self._loop.time()
            self._send_status(wants_answer=self._is_reading)
            self._timer = self._loop.call_later(every_s, self._tick)

    def _answer(self, wal_end: int) -> None:
        """Answer at once; a server that shuts down asks until all is confirmed, which cannot be written down now."""
        count, since = self._hurry
        now = self._loop.time()
        count, since = (count + 1, since) if now - since < 1 else (1, now)
        self._hurry = (count, since)
        if count > HURRIED_REQUESTS and wal_end > self._confirmed:
            raise StoreUnavailableError(store=NAME, reason="the server shuts down")
        self._send_status(wants_answer=False)

    def _send_status(self, *, wants_answer: bool) -> None:
        if not self._is_open:
            return
        at = self._confirmed
        try:
            self._pgconn.put_copy_data(_STATUS.pack(b"r", at, at, at, _micros_since_2000(), wants_answer))
            self._flush()
        except psycopg.Error as error:
            self._fail(self._connection.translate(error))

    def _flush(self) -> None:
        if self._pgconn.flush():
            self._loop.add_writer(self._descriptor, self._flush_later)
        else:
            self._loop.remove_writer(self._descriptor)

    def _flush_later(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self._fail(self._connection.translate(error))

    def _fail(self, error: PillarboxError) -> None:
        """End reading; whoever takes next is told why. The connection goes, so that the slot is free."""
        if self._failure is not None:
            return
        self.close()
        self._failure = error
        self._pgconn.finish()
        self._on_arrival()


def _unreadable(cause: Exception) -> InternalError:
    error = InternalError(f"a record of the log cannot be read: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


def _micros_since_2000() -> int:
    return time.time_ns() // 1000 - MICROS_1970_TO_2000
