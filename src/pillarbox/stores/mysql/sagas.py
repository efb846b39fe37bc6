"""Sagas where an INSERT cannot tell which of its rows are new, nor an UPDATE whether it has found its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import json
from sqlalchemy import Executable, text

from pillarbox.errors import InvalidMessageError
from pillarbox.relational.sagas import BEGIN, LOCK, PRESENT, RelationalSagaStore, named_by, row_of_new
from pillarbox.saga.store import ChangedSaga, NewSaga, SagaKey
from pillarbox.transaction import Execute, Program

ALLOWED = text("SELECT @@max_allowed_packet")
SURELY_ALLOWED = 500_000
"""Bytes that each server takes in one statement; how many it takes at most is asked only for more."""
BESIDE_THE_VALUES = 10_000
"""Bytes of a statement for its words."""


class MySqlSagaStore(RelationalSagaStore):
    """Instances, those of a start told from those of others by their secret."""

    def start(self, sagas: Sequence[NewSaga]) -> Program[frozenset[SagaKey]]:
        """Insert what is not there; whatever was there before is told by looking first, under its key's lock."""
        known = {SagaKey(*row) for row in (yield Execute(PRESENT, named_by([one.key for one in sagas])))}
        fresh = [one for one in sagas if one.key not in known]
        if not fresh:
            return frozenset()
        yield from self._write(BEGIN, [row_of_new(one) for one in fresh])
        found = yield Execute(LOCK, named_by([one.key for one in fresh]))
        mine = {one.key: one.journal for one in fresh}
        return frozenset(key for row in found if mine.get(key := SagaKey(row[0], row[1])) == row[5])

    def _write(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> Program[None]:
        """Execute it for as many rows at once as one packet holds.

        Raises:
            InvalidMessageError: one alone is larger, at which the server would end the connection as if it were away;
                no row was written, and the transaction goes on.
        """
        sizes = [_sent_size(row) for row in rows]
        if sum(sizes) <= SURELY_ALLOWED:
            yield Execute(statement, {"sagas": rows})
            return
        allowed = int((yield Execute(ALLOWED))[0][0]) - BESIDE_THE_VALUES
        for row, size in zip(rows, sizes, strict=True):
            if size > allowed:
                reason = (
                    f"with the journal of saga {row['saga_id']!r} it takes {size} bytes escaped, and the database "
                    f"takes max_allowed_packet = {allowed + BESIDE_THE_VALUES}; raise that"
                )
                raise InvalidMessageError(message_type=str(row["saga"]), reason=reason, is_state=True)
        part: list[Mapping[str, Any]] = []
        left = allowed
        for row, size in zip(rows, sizes, strict=True):
            if size > left:
                yield Execute(statement, {"sagas": part})
                part, left = [], allowed
            part.append(row)
            left -= size
        yield Execute(statement, {"sagas": part})

    def save_unlocked(self, changed: ChangedSaga, *, serial: int) -> Program[int | None] | None:
        """Not in one statement."""
        del changed, serial
        return None


def _sent_size(row: Mapping[str, Any]) -> int:
    """Return how many bytes of a statement ``row`` takes: as a part of JSON, whose marks are escaped, and a comma."""
    spelled = json.encode(row)
    return len(spelled) + 1 + sum(spelled.count(one) for one in (b'"', b"'", b"\\"))
