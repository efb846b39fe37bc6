"""Sagas where an INSERT cannot tell which of its rows are new, nor an UPDATE whether it has found its row."""

from __future__ import annotations

from collections.abc import Sequence

from pillarbox.relational.sagas import BEGIN, LOCK, PRESENT, RelationalSagaStore, named_by, row_of_new
from pillarbox.saga.store import ChangedSaga, NewSaga, SagaKey
from pillarbox.transaction import Execute, Program


class MySqlSagaStore(RelationalSagaStore):
    """Instances, those of a start told from those of others by their secret."""

    def start(self, sagas: Sequence[NewSaga]) -> Program[frozenset[SagaKey]]:
        """Insert what is not there; whatever was there before is told by looking first, under its key's lock."""
        known = {SagaKey(*row) for row in (yield Execute(PRESENT, named_by([one.key for one in sagas])))}
        fresh = [one for one in sagas if one.key not in known]
        if not fresh:
            return frozenset()
        yield Execute(BEGIN, {"sagas": [row_of_new(one) for one in fresh]})
        found = yield Execute(LOCK, named_by([one.key for one in fresh]))
        mine = {one.key: one.journal for one in fresh}
        return frozenset(key for row in found if mine.get(key := SagaKey(row[0], row[1])) == row[5])

    def save_unlocked(self, changed: ChangedSaga, *, serial: int) -> Program[int | None] | None:
        """Not in one statement."""
        del changed, serial
        return None
