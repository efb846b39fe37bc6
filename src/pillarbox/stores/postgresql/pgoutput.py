"""A pure decoder of PostgreSQL's ``pgoutput`` messages, protocol version 1: bytes in, values out.

Only what an outbox needs is taken apart: the rows inserted into one table, and logical messages. Values of columns are
the bytes of their text form, in the client's encoding. Source: PostgreSQL, *Logical Replication Message Formats*.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, error
from typing import TypeAlias

import msgspec

from pillarbox.errors import InternalError

_BEGIN = Struct(">QqI")
_COMMIT = Struct(">BQQq")
_MESSAGE = Struct(">BQ")
_INSERT = Struct(">IcH")
_RELATION = Struct(">I")
_COUNT = Struct(">H")
_LENGTH = Struct(">I")
_length_at = _LENGTH.unpack_from

_NULL, _UNCHANGED, _TEXT, _BINARY = b"nutb"
_TRANSACTIONAL = 1
_PASSED_OVER = frozenset(b"YOTUD")
"""Type, Origin, Truncate, Update and Delete: nothing is published because of them."""


class Begin(msgspec.Struct, frozen=True, gc=False):
    """A transaction begins; it arrives once it is committed, as a whole.

    Attributes:
        final_lsn: where its commit stands in the log: what identifies it.
        committed_at: microseconds since 2000, by the database's clock.
    """

    final_lsn: int
    committed_at: int
    xid: int


class Commit(msgspec.Struct, frozen=True, gc=False):
    """A transaction ends.

    Attributes:
        end_lsn: where the log goes on behind it; once this is confirmed the transaction is not sent again.
    """

    commit_lsn: int
    end_lsn: int


class Insert(msgspec.Struct, frozen=True, gc=False):
    """A row was inserted into the table that is listened to.

    Attributes:
        values: of the wanted columns, in the order in which they were wanted; ``None`` for NULL.
    """

    values: tuple[bytes | None, ...]


class LogicalMessage(msgspec.Struct, frozen=True, gc=False):
    """What ``pg_logical_emit_message`` wrote into the log.

    Attributes:
        is_transactional: it belongs to the transaction that is under way, and vanished with one that rolled back.
    """

    is_transactional: bool
    lsn: int
    prefix: str
    content: bytes


Decoded: TypeAlias = Begin | Commit | Insert | LogicalMessage


class Decoder:
    """Decodes the messages of one stream; it must see all of them, since a table is described once."""

    def __init__(self, *, relation: int, columns: Sequence[str]) -> None:
        """Take ``columns`` of the inserts into the table with the object id ``relation``."""
        self._relation = relation
        self._columns = tuple(columns)
        self._places: tuple[int, ...] | None = None

    def decode(self, data: bytes) -> Decoded | None:
        """Return what ``data``, one message, says; ``None`` when that is of no concern.

        Raises:
            InternalError: it is of a kind that this protocol does not have, cut short, or about columns that are not
                there.
        """
        if not data:
            raise InternalError("a message of pgoutput is empty")
        kind = data[0]
        try:
            if kind == _INSERT_KIND:
                return self._insert(data)
            if kind == _BEGIN_KIND:
                return Begin(*_BEGIN.unpack_from(data, 1))
            if kind == _COMMIT_KIND:
                _, commit_lsn, end_lsn, _ = _COMMIT.unpack_from(data, 1)
                return Commit(commit_lsn, end_lsn)
            if kind == _MESSAGE_KIND:
                return _message(data)
            if kind == _RELATION_KIND:
                self._describe(data)
                return None
        except (error, IndexError, ValueError) as cause:
            raise InternalError(f"a message of pgoutput of the kind {chr(kind)!r} is cut short") from cause
        if kind in _PASSED_OVER:
            return None
        raise InternalError(f"pgoutput sent a message of the unknown kind {chr(kind)!r}")

    def is_wanted_insert(self, data: bytes) -> bool:
        """Tell whether ``data`` is an insert into the table, without decoding its values."""
        return data[0] == _INSERT_KIND and _length_at(data, 1)[0] == self._relation

    def _insert(self, data: bytes) -> Insert | None:
        relation, new, count = _INSERT.unpack_from(data, 1)
        if relation != self._relation:
            return None
        places = self._places
        if places is None or new != b"N" or count != len(places):
            raise InternalError("pgoutput sent a row of a table that it did not describe")
        values: list[bytes | None] = [None] * len(self._columns)
        at = 8
        for place in places:
            kind = data[at]
            at += 1
            if kind in (_TEXT, _BINARY):
                (length,) = _length_at(data, at)
                at += 4
                if place >= 0:
                    values[place] = data[at : at + length]
                at += length
            elif kind not in (_NULL, _UNCHANGED):
                raise InternalError(f"pgoutput sent a value of the unknown kind {chr(kind)!r}")
        if at > len(data):
            raise ValueError(at)
        return Insert(tuple(values))

    def _describe(self, data: bytes) -> None:
        """Note at which places of a row the wanted columns stand."""
        (relation,) = _RELATION.unpack_from(data, 1)
        if relation != self._relation:
            return
        _, at = _name(data, 5)
        _, at = _name(data, at)
        (count,) = _COUNT.unpack_from(data, at + 1)
        at += 3
        names: list[str] = []
        for _ in range(count):
            name, at = _name(data, at + 1)
            names.append(name)
            at += 8
        if missing := [column for column in self._columns if column not in names]:
            raise InternalError(f"the outbox in the log has no column {', '.join(missing)}; was it altered by hand?")
        self._places = tuple(self._columns.index(name) if name in self._columns else -1 for name in names)


_BEGIN_KIND, _COMMIT_KIND, _INSERT_KIND, _MESSAGE_KIND, _RELATION_KIND = b"BCIMR"


def _message(data: bytes) -> LogicalMessage:
    flags, lsn = _MESSAGE.unpack_from(data, 1)
    prefix, at = _name(data, 10)
    (length,) = _length_at(data, at)
    content = data[at + 4 : at + 4 + length]
    if len(content) < length:
        raise ValueError(length)
    return LogicalMessage(bool(flags & _TRANSACTIONAL), lsn, prefix, content)


def _name(data: bytes, at: int) -> tuple[str, int]:
    """Return the zero-terminated text at ``at``, and where it goes on behind it."""
    end = data.index(0, at)
    return data[at:end].decode(), end + 1


def lsn_text(lsn: int) -> str:
    """Return a place in the log as PostgreSQL spells it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFF_FFFF:X}"


def lsn_of(text: str) -> int:
    """Return the number of a place in the log as PostgreSQL spells it."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)
