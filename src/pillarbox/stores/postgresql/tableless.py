"""The outbox without a table: records are written into the database's log alone, by the caller's transaction.

Guarantee: a record is in the log if and only if the transaction that appended it commits.
Not promised: that it can be read twice; what the log has lost is lost. Records have rows while they are delayed or put
aside, while there is no slot yet that would keep the log for their relay, and in a transaction at REPEATABLE READ or
SERIALIZABLE, which may look at a view of the data from before the slot was given up.
Source: PostgreSQL, ``pg_logical_emit_message``; G. Morling, *The Wonders of Postgres Logical Decoding Messages*.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

import msgspec
from sqlalchemy import LargeBinary, bindparam, text

from pillarbox.message import Message
from pillarbox.outbox import KeyNumbers, OutboxRecord, OutboxState, OutboxStore
from pillarbox.outbox.numbers import give_numbers
from pillarbox.relational.expressions import ListOf
from pillarbox.relational.outbox import KeyLocks, RelationalOutboxStore
from pillarbox.relay.reader import PendingRecord
from pillarbox.stores.postgresql.pgoutput import LogicalMessage
from pillarbox.transaction import Execute, Program

PREFIX = "pillarbox.outbox"
EMIT = text(  # positions come from the table's sequence, so that both forms of a key keep one order
    f"SELECT count(pg_logical_emit_message(true, '{PREFIX}',"
    " int8send(nextval('pillarbox_outbox_position_seq')) || content)) FROM unnest(:contents) AS content"
    " WHERE current_setting('transaction_isolation') LIKE 'read %'"  # else the next line can tell of the past
    " AND EXISTS (SELECT FROM pillarbox_outbox_checkpoint WHERE name = 'outbox' AND flushed_lsn <> '')"
).bindparams(bindparam("contents", type_=ListOf(LargeBinary())))
_POSITION = Struct(">q")

_Written = tuple[int, str, str, str, str | None, str, dict[str, str], bytes]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Written).decode


class TablelessOutboxStore(OutboxStore):
    """The outbox as producers see it, without a table; delayed records wait in the table of scheduled ones."""

    def __init__(self, key_locks: KeyLocks, numbers: KeyNumbers) -> None:
        """Lock keys with ``key_locks``."""
        self._key_locks = key_locks
        self._numbers = numbers
        self._tables = RelationalOutboxStore(key_locks, numbers)

    def append(self, records: Sequence[OutboxRecord]) -> Program[None]:
        """Lock the keys in sorted order, then write, so that the log has each key's records in order."""
        now = [record for record in records if not record.due_in]
        if now:
            buckets = {record.bucket for record in now if record.message.key is not None}
            if buckets:
                yield Execute(self._key_locks.lock, {"buckets": sorted(buckets)})
            now = list((yield from give_numbers(now, self._numbers)))
            written = (yield Execute(EMIT, {"contents": [content_of(record) for record in now]}))[0][0]
            if not written:  # nobody would read them in the log
                yield from self._tables.append(now)
        yield from self._tables.append([record for record in records if record.due_in])

    def state(self) -> Program[OutboxState]:
        """Count what waits in tables; what waits in the log is told by the slot."""
        return self._tables.state()


def content_of(record: OutboxRecord) -> bytes:
    """Return a record as it stands in the log, behind its position."""
    message = record.message
    return _encode(
        (
            record.slot,
            message.id,
            message.type,
            message.destination,
            message.key,
            message.content_type,
            message.headers,
            message.body,
        )
    )


def record_in(message: LogicalMessage) -> PendingRecord | None:
    """Return the record in a logical message; ``None`` when it is somebody else's."""
    if message.prefix != PREFIX:
        return None
    (position,) = _POSITION.unpack_from(message.content)
    slot, identity, kind, destination, key, content_type, headers, body = _decode(message.content[_POSITION.size :])
    return PendingRecord(
        position=position,
        slot=slot,
        held=False,
        message=Message(
            id=identity,
            type=kind,
            destination=destination,
            key=key,
            content_type=content_type,
            headers=headers,
            body=body,
        ),
    )
