"""The stream of a log without a server: what it keeps, when it stops reading, and what it tells."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pillarbox.errors import InternalError, LogBrokenError, StoreUnavailableError
from pillarbox.message import Message
from pillarbox.relational.rows import message_of
from pillarbox.relay.log_reader import Checkpoint
from pillarbox.relay.reader import PendingRecord
from pillarbox.stores.postgresql.log_stream import LogStream, RecordSource, StreamLimits
from pillarbox.stores.postgresql.pgoutput import Decoder
from tests.unit.stores.postgresql.test_pgoutput import OUTBOX, begin, commit, insert, relation
from tests.waiting import wait_until

STATUS = struct.Struct(">cQQQq?")


class Wire:
    """The driver's side of a connection: what a server would send, and what it was told."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.sent: deque[bytes] = deque()
        self.told: list[tuple[Any, ...]] = []
        self.pgconn = self
        self.socket = self.ours.fileno()
        self.has_ended = False

    def send(self, *messages: bytes) -> None:
        """Let the server send messages of pgoutput."""
        self.send_raw(*(b"w" + bytes(24) + message for message in messages))

    def send_raw(self, *messages: bytes) -> None:
        self.sent.extend(messages)
        self.theirs.send(b"!")

    def consume_input(self) -> None:
        self.ours.recv(4096)

    def get_copy_data(self, _: int) -> tuple[int, bytes]:
        if not self.sent:
            return (-1, b"") if self.has_ended else (0, b"")
        message = self.sent.popleft()
        return len(message), message

    def put_copy_data(self, status: bytes) -> None:
        self.told.append(STATUS.unpack(status))

    def flush(self) -> int:
        return 0

    def finish(self) -> None:
        pass

    def refusal(self) -> Exception:
        return LogBrokenError(slot="ours", reason="the slot is gone")

    @property
    def confirmed(self) -> list[int]:
        """The places in the log that the server was told, in order."""
        return [status[2] for status in self.told]


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.ours.close()
    wire.theirs.close()


def _record(values: tuple[bytes | None, ...]) -> PendingRecord:
    message = Message(id="m", type="t", destination="topic:t", key=None, content_type="", headers={}, body=b"")
    return PendingRecord(position=int(values[0] or 0), slot=0, held=False, message=message)


def _record_of_sound_headers(values: tuple[bytes | None, ...]) -> PendingRecord:
    """Read the second row's headers as those of every row are read, with a number where text belongs."""
    if values[0] == b"2":
        message_of((*[""] * 5, '{"a": 1}', b""))
    return _record(values)


def stream_of(
    wire: Wire,
    *,
    wanted: bool = True,
    partial: tuple[int, int] = (0, 0),
    every_s: float = 60,
    of_row: Callable[[tuple[bytes | None, ...]], PendingRecord] = _record,
) -> LogStream:
    checkpoint = Checkpoint(
        system_id="7",
        timeline=1,
        slot_name="ours",
        flushed_lsn=100,
        partial_lsn=partial[0],
        partial_rows=partial[1],
    )
    stream = LogStream(
        wire,  # type: ignore[arg-type]  # the part of a connection that a stream uses
        records=RecordSource(
            decoder=Decoder(relation=OUTBOX, columns=("position",)), of_row=of_row, of_message=lambda _: None
        ),
        limits=StreamLimits(records=10, status_every_s=every_s),
        checkpoint=checkpoint,
        is_wanted=lambda: wanted,
        on_arrival=lambda: None,
    )
    stream.open()
    wire.send(relation(OUTBOX, ["position"]))
    return stream


def rows(first: int, last: int) -> list[bytes]:
    return [insert(OUTBOX, [str(number).encode()]) for number in range(first, last + 1)]


async def taken(stream: LogStream, count: int) -> list[int]:
    """Take until there are ``count``."""
    found: list[int] = []

    def enough() -> bool:
        found.extend(entry.record.position for entry in stream.take_nowait(3))
        return len(found) >= count

    await wait_until(enough, works=True)
    return found


async def test_a_full_buffer_stops_reading_until_it_is_half_empty(wire: Wire) -> None:
    stream = stream_of(wire)
    wire.send(begin(150, 0, 9), *rows(1, 40))

    await wait_until(lambda: len(wire.sent) == 30)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(wire.sent) == 30
    stream.take_nowait(4)
    assert len(wire.sent) == 30, "more than half is left"
    stream.take_nowait(1)
    assert len(wire.sent) == 25
    stream.close()


async def test_everything_comes_in_order_however_small_the_buffer(wire: Wire) -> None:
    stream = stream_of(wire)
    wire.send(begin(150, 0, 9), *rows(1, 700), commit(150, 160))

    assert await taken(stream, 700) == list(range(1, 701))
    await wait_until(lambda: stream.passed_lsn == 160)
    stream.close()


async def test_the_server_is_told_that_we_live_while_nothing_is_read(wire: Wire) -> None:
    stream = stream_of(wire, every_s=0.01)
    wire.send(begin(150, 0, 9), *rows(1, 40))

    await wait_until(lambda: len(wire.told) > 5)

    assert set(wire.confirmed) == {100}
    stream.close()


async def test_a_request_is_answered_at_once_with_no_more_than_what_was_confirmed(wire: Wire) -> None:
    stream = stream_of(wire)
    wire.send(begin(150, 0, 9), *rows(1, 2), commit(150, 160))
    wire.send_raw(keepalive(500, wants_answer=True))

    await wait_until(lambda: len(wire.told) == 2)
    assert wire.confirmed == [100, 100]
    stream.confirm(160)
    assert wire.confirmed == [100, 100, 160]
    stream.confirm(150)
    assert wire.confirmed == [100, 100, 160], "it does not go back"
    stream.close()


async def test_the_log_is_passed_when_all_of_it_was_taken(wire: Wire) -> None:
    stream = stream_of(wire)
    assert stream.passed_lsn == 100
    wire.send(begin(150, 0, 9), *rows(1, 1))
    await wait_until(lambda: not wire.sent)
    assert stream.passed_lsn is None
    assert await taken(stream, 1) == [1]
    assert stream.passed_lsn is None, "its transaction may bring more"

    wire.send(commit(150, 160))
    wire.send_raw(keepalive(500, wants_answer=False))

    await wait_until(lambda: stream.passed_lsn == 500)
    stream.close()


async def test_records_that_were_settled_in_an_earlier_life_are_passed_over(wire: Wire) -> None:
    stream = stream_of(wire, partial=(150, 3))
    wire.send(begin(150, 0, 9), *rows(1, 5), commit(150, 160), begin(170, 0, 10), *rows(6, 7), commit(170, 180))

    assert await taken(stream, 4) == [4, 5, 6, 7]
    stream.close()


async def test_a_server_that_asks_in_a_hurry_is_let_go(wire: Wire) -> None:
    stream = stream_of(wire)
    wire.send_raw(*[keepalive(500, wants_answer=True)] * 10)

    await fails_with(stream, StoreUnavailableError, "shuts down")


async def test_a_relay_that_lost_its_lease_lets_the_slot_go(wire: Wire) -> None:
    stream = stream_of(wire, wanted=False, every_s=0.01)

    await fails_with(stream, StoreUnavailableError, "does not work any more")


async def test_why_the_server_ended_the_stream_is_told(wire: Wire) -> None:
    stream = stream_of(wire)
    wire.has_ended = True
    wire.send_raw()

    await fails_with(stream, LogBrokenError, "the slot is gone")


async def test_a_record_that_cannot_be_read_is_not_passed(wire: Wire) -> None:
    stream = stream_of(wire, of_row=_record_of_sound_headers)
    wire.send(begin(150, 0, 9), *rows(1, 3), commit(150, 160))

    await fails_with(stream, InternalError, "a record of the log cannot be read")

    assert stream.passed_lsn is None
    stream.close()


async def fails_with(stream: LogStream, kind: type[Exception], text: str) -> None:
    def has_failed() -> bool:
        try:
            stream.take_nowait(1)
        except kind as error:
            return text in str(error)
        return False

    await wait_until(has_failed)


def keepalive(wal_end: int, *, wants_answer: bool) -> bytes:
    return struct.pack(">cQQ?", b"k", wal_end, 0, wants_answer)
