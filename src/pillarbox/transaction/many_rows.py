"""An INSERT of many rows as few statements, where the driver would send one a row: on MySQL and MariaDB.

Its drivers put many rows into one statement only where each value is a plain placeholder; ours have the database's
clock among them. SQLAlchemy can do it, and has it switched off for this dialect: it does it here for a copy of the
dialect, so that the caller's own statements go as before.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Executable, Insert

from pillarbox.errors import InvalidMessageError

ROWS_AT_MOST: Final = 500
BYTES_AT_MOST: Final = 1_000_000
"""Of values in a statement, a quarter of what the smallest default of ``max_allowed_packet`` takes when escaped."""

BESIDE_THE_VALUES: Final = 100_000
"""Bytes of a statement for its words, and for the history that is kept with a message whose handler fails."""

_ONE_A_ROW = ("mysql", "mariadb")
_ESCAPED: Final = (b"\0", b"\n", b"\r", b"\x1a", b'"', b"'", b"\\")
_widened: WeakKeyDictionary[Dialect, Any] = WeakKeyDictionary()


def sends_one_a_row(connection: Connection, statement: Executable) -> bool:
    """Tell whether ``statement`` is an INSERT whose rows ``connection`` would send one by one."""
    return isinstance(statement, Insert) and connection.dialect.name in _ONE_A_ROW


@contextmanager
def many_rows_a_statement(connection: Connection) -> Generator[None]:
    """Have ``connection`` put all rows of an INSERT into one statement while this is entered."""
    own = connection.dialect
    wide = _widened.get(own)
    if wide is None:
        wide = _widened[own] = copy.copy(own)
        wide.use_insertmanyvalues_wo_returning = True
        wide.insertmanyvalues_page_size = ROWS_AT_MOST
    connection.dialect = wide
    try:
        yield
    finally:
        connection.dialect = own


def in_parts(rows: Sequence[Mapping[str, object]]) -> Iterator[list[Mapping[str, object]]]:
    """Yield ``rows`` in parts that fit into one statement each, as long as a row by itself does."""
    part: list[Mapping[str, object]] = []
    size = 0
    for row in rows:
        own = _size(row)
        if part and (len(part) == ROWS_AT_MOST or size + own > BYTES_AT_MOST):
            yield part
            part, size = [], 0
        part.append(row)
        size += own
    if part:
        yield part


def refuse_what_no_packet_holds(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Refuse records that the server would end the connection at, as if it were away: each attempt would look so.

    Raises:
        InvalidMessageError: a record is larger than one statement may be; the transaction goes on.
    """
    large = [row for row in rows if isinstance(row.get("payload"), bytes) and _size(row) > BYTES_AT_MOST // 2]
    if not large:
        return
    allowed = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
    for row in large:
        body = row["payload"]
        assert isinstance(body, bytes)
        sent = sum(map(_sent_size, row.values())) + BESIDE_THE_VALUES
        if sent > allowed:
            reason = (
                f"its body is {len(body)} bytes long, {sent} escaped and with what is kept beside it, and the database "
                f"takes max_allowed_packet = {allowed}; raise that, or store large data elsewhere and send a reference"
            )
            raise InvalidMessageError(message_type=str(row["event_type"]), reason=reason, message_id=str(row["id"]))


def _size(row: Mapping[str, object]) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, (bytes, str)))


def _sent_size(value: object) -> int:
    """Return how many bytes of a statement ``value`` takes, escaped."""
    sent = value.encode() if isinstance(value, str) else value
    return len(sent) + sum(sent.count(one) for one in _ESCAPED) if isinstance(sent, bytes) else 0
