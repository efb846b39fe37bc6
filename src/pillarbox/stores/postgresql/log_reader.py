"""The log of a PostgreSQL database as a log tailing relay sees it."""

from __future__ import annotations

from binascii import unhexlify
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from pillarbox.errors import LogBrokenError, PillarboxError, StoreUnavailableError
from pillarbox.relational.rows import message_of
from pillarbox.relay.log_reader import Checkpoint, LogEntry, LogReader, NewSlot, Outlook
from pillarbox.relay.log_settings import LogSettings
from pillarbox.relay.reader import PendingRecord
from pillarbox.stores.postgresql.log_stream import LogStream, RecordSource, StreamLimits
from pillarbox.stores.postgresql.pgoutput import Decoder, lsn_of, lsn_text
from pillarbox.stores.postgresql.replication import NAME, ReplicationConnection
from pillarbox.stores.postgresql.sight import Sight
from pillarbox.stores.postgresql.slots import (
    REPEATABLE_READ,
    Facts,
    create_slot_command,
    drop_slot,
    find_facts,
    find_slot,
    import_snapshot,
    is_published,
    publish_outbox,
    restamp,
    snapshot_text,
    start_command,
)
from pillarbox.stores.postgresql.tableless import record_in
from pillarbox.transaction import Execute, Program, TransactionSource

if TYPE_CHECKING:
    from pillarbox.clock import Clock

COLUMNS = (
    "position",
    "slot",
    "id",
    "event_type",
    "destination",
    "message_key",
    "content_type",
    "headers",
    "payload",
)
LOOK_UP_EVERY_S = 1.0
"""How often whoever waits for a slot to be made looks up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingTerms:
    """How a log is read.

    Attributes:
        limits: how much is kept ready.
        connect_within: how long connecting may take.
        renew_within: how long a slot may wait for transactions under way.
        silence: after how long without a word from us the server frees the slot.
    """

    limits: StreamLimits = field(default_factory=StreamLimits)
    connect_within: timedelta = timedelta(seconds=10)
    renew_within: timedelta = timedelta(minutes=1)
    silence: timedelta = timedelta(seconds=15)


class PostgresLogReader(LogReader):
    """Reads through a replication slot, by ``pgoutput``."""

    def __init__(
        self,
        *,
        arguments: Mapping[str, Any],
        source: TransactionSource,
        clock: Clock,
        settings: LogSettings,
        terms: ReadingTerms,
        is_wanted: Callable[[], bool],
        on_arrival: Callable[[], None],
    ) -> None:
        """Read the log of the database of ``source``.

        Args:
            arguments: how psycopg connects to it.
            source: where statements are executed.
            clock: measures how long a slot takes.
            settings: the names.
            terms: the bounds.
            is_wanted: reading ends by itself when this turns false.
            on_arrival: called when records have arrived.
        """
        self._arguments = arguments
        self._source = source
        self._clock = clock
        self._settings = settings
        self._terms = terms
        self._is_wanted = is_wanted
        self._on_arrival = on_arrival
        self._connection: ReplicationConnection | None = None
        self._stream: LogStream | None = None
        self._facts: Facts | None = None
        self._slot = ""
        self._arrived: deque[LogEntry] = deque()
        """What the log has told and the database does not show yet."""
        self._sight: Sight | None = None

    async def look(self) -> Outlook:
        self._facts = facts = await self._source.run(find_facts())
        self._slot = self._settings.slot_in(facts.database)
        connection = await self._connect()
        system_id, timeline, *_ = (await connection.execute("IDENTIFY_SYSTEM"))[0]
        found = await self._source.run(find_slot(self._slot, database=facts.database))
        return Outlook(
            system_id=str(system_id),
            timeline=int(timeline or 0),
            slot_name=self._slot,
            slot=None if found is None else found.slot,
            is_published=await self._source.run(is_published(self._settings.publication)),
        )

    async def renew(
        self,
        *,
        instead_of: str | None,
        before: Callable[[], Awaitable[None]],
        meanwhile: Callable[[], Awaitable[None]],
    ) -> NewSlot:
        for name in filter(None, (self._slot, instead_of)):
            await self._run(drop_slot(name))
        await before()
        await self._run(publish_outbox(self._settings.publication))
        await self._run(restamp())
        connection = await self._connect()
        command = create_slot_command(
            self._slot, failover=self._settings.failover, server_version=connection.server_version
        )
        connection.send(command)
        _, starts_at, exported, _ = await self._answer(connection, meanwhile)
        try:
            async with self._source.begin() as transaction:
                return NewSlot(starts_at=lsn_of(starts_at), snapshot=await transaction.run(_seen_by(exported)))
        except DBAPIError as error:
            raise self._source.translate(error) from error

    async def start(self, checkpoint: Checkpoint) -> None:
        facts, connection = self._facts, await self._connect()
        assert facts is not None, "look comes first"
        at = lsn_text(checkpoint.flushed_lsn or 0)
        publication = self._settings.publication
        await connection.execute(
            start_command(self._slot, publication=publication, at=at, server_version=connection.server_version)
        )
        await self._make_sure(connection, facts, checkpoint)
        self._stream = LogStream(
            connection,
            records=RecordSource(
                decoder=Decoder(relation=facts.outbox, columns=COLUMNS), of_row=record_of_row, of_message=record_in
            ),
            limits=self._terms.limits,
            checkpoint=checkpoint,
            is_wanted=self._is_wanted,
            on_arrival=self._on_arrival,
        )
        self._stream.open()

    async def take(self, limit: int) -> Sequence[LogEntry]:
        ready = self._arrived
        ready.extend(self._open_stream.take_nowait(limit - len(ready)))
        count = 0 if self._sight is None else self._sight.seen(ready)
        if count < len(ready):
            self._sight = Sight.of(await self._source.run_single(snapshot_text()))
            count = self._sight.seen(ready)
        return [ready.popleft() for _ in range(min(count, limit))]

    @property
    def passed_lsn(self) -> int | None:
        return None if self._arrived else self._open_stream.passed_lsn

    def confirm(self, lsn: int) -> None:
        self._open_stream.confirm(lsn)

    async def close(self) -> None:
        self._arrived.clear()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connect(self) -> ReplicationConnection:
        if self._connection is None:
            within_s = self._terms.connect_within.total_seconds()
            self._connection = await ReplicationConnection.connect(self._arguments, slot=self._slot, within_s=within_s)
            silence_ms = round(self._terms.silence / timedelta(milliseconds=1))
            for name, value in (
                ("wal_sender_timeout", silence_ms),
                ("bytea_output", "hex"),
                ("client_encoding", "UTF8"),
            ):
                await self._connection.execute(f"SET {name} = '{value}'")
        return self._connection

    async def _answer(
        self, connection: ReplicationConnection, meanwhile: Callable[[], Awaitable[None]]
    ) -> tuple[str, ...]:
        """Wait for the slot, which waits for every transaction that began before it."""
        until = self._clock.monotonic() + self._terms.renew_within.total_seconds()
        while (rows := await connection.answer(LOOK_UP_EVERY_S)) is None:
            if self._clock.monotonic() > until:
                await self.close()
                raise StoreUnavailableError(
                    store=NAME, reason="a replication slot waits for transactions that began before it; end them"
                )
            await meanwhile()
        return tuple(value or "" for value in rows[0])

    async def _make_sure(self, connection: ReplicationConnection, facts: Facts, checkpoint: Checkpoint) -> None:
        """Look again now that nobody else can drop the slot and make it anew."""
        found = await self._source.run(find_slot(self._slot, database=facts.database))
        if found is None or found.active_pid != connection.backend_pid:
            raise StoreUnavailableError(store=NAME, reason=f"the slot {self._slot!r} is not ours after all")
        if found.slot.confirmed_lsn > (checkpoint.flushed_lsn or 0):
            raise LogBrokenError(slot=self._slot, reason="it begins behind the checkpoint; was it made anew?")

    async def _run(self, program: Program[None]) -> None:
        """Run ``program``; a slot that is being read cannot be dropped."""
        try:
            await self._source.run(program)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == "55006" or "is active" in str(error.orig):
                raise StoreUnavailableError(store=NAME, reason=str(error.orig)) from error
            raise

    @property
    def _open_stream(self) -> LogStream:
        if self._stream is None:
            raise _not_reading()
        return self._stream


def record_of_row(values: tuple[bytes | None, ...]) -> PendingRecord:
    """Return the record of a row of the outbox, from the text forms of ``COLUMNS``."""
    position, slot, identity, kind, destination, key, content_type, headers, payload = values
    assert position is not None, "the primary key"
    assert slot is not None, "a column without NULL"
    assert payload is not None, "a column without NULL"
    texts = [None if one is None else one.decode() for one in (identity, kind, destination, key, content_type)]
    return PendingRecord(
        position=int(position),
        slot=int(slot),
        held=False,
        message=message_of((*texts, headers, unhexlify(payload[2:]))),
    )


def _seen_by(exported: str) -> Program[str]:
    """Return as text what the exported snapshot sees; in a transaction that has done nothing yet."""
    yield Execute(REPEATABLE_READ)
    yield Execute(import_snapshot(exported))
    return (yield from snapshot_text())


def _not_reading() -> PillarboxError:
    return StoreUnavailableError(store=NAME, reason="the log is not being read")
