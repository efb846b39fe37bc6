"""The counters of numbered destinations in SQL."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, Text, case, func, select, text, update

from pillarbox.message import Number
from pillarbox.outbox import KeyNumbers
from pillarbox.outbox.record import Line
from pillarbox.relational.expressions import any_of, insert_into, now_us, rows_of, texts
from pillarbox.relational.tables import key_numbers
from pillarbox.transaction import Execute, Program, Rows

_wanted = rows_of("lines", destination=Text(), message_key=Text(), taken=BigInteger())
_take = insert_into(key_numbers).from_select(
    ["destination", "message_key", "epoch", "last"],
    select(_wanted.c.destination, _wanted.c.message_key, now_us(), _wanted.c.taken).where(text("true")),
)
_line = (key_numbers.c.destination, key_numbers.c.message_key, key_numbers.c.epoch, key_numbers.c.last)
TAKE = _take.on_conflict_do_update(  # primary key; locks each counter to the transaction's end, in the order given
    index_elements=["destination", "message_key"], set_={"last": key_numbers.c.last + _take.excluded.last}
)
TAKE_AND_TELL = TAKE.returning(*_line)
TAKEN = select(*_line).where(  # primary key; what this transaction wrote it sees, whatever its isolation
    any_of(key_numbers.c.destination, texts("destinations")), any_of(key_numbers.c.message_key, texts("keys"))
)
BEGIN_EPOCH = update(key_numbers).values(
    epoch=case((key_numbers.c.epoch < now_us(), now_us()), else_=key_numbers.c.epoch + 1), last=0
)
COUNT = select(func.count()).select_from(key_numbers)


class RelationalKeyNumbers(KeyNumbers):
    """Counters as rows."""

    def take(self, counts: Mapping[Line, int]) -> Program[Mapping[Line, Number]]:
        """Add to all of them in one statement; a row that is not there begins an epoch."""
        return _numbers((yield Execute(TAKE_AND_TELL, {"lines": _lines(counts)})))

    def begin_epoch(self) -> Program[int]:
        """Rewrite all of them."""
        yield Execute(BEGIN_EPOCH)
        return int((yield Execute(COUNT))[0][0])


class RereadKeyNumbers(RelationalKeyNumbers):
    """Counters as rows where an INSERT tells nothing: they are read again, under the lock that it took."""

    def take(self, counts: Mapping[Line, int]) -> Program[Mapping[Line, Number]]:
        """Add to all of them, then look; the lists may name lines besides those asked for."""
        yield Execute(TAKE, {"lines": _lines(counts)})
        destinations, keys = (sorted(set(part)) for part in zip(*counts, strict=True))
        found = _numbers((yield Execute(TAKEN, {"destinations": destinations, "keys": keys})))
        return {line: found[line] for line in counts}


def _lines(counts: Mapping[Line, int]) -> list[dict[str, object]]:
    return [
        {"destination": destination, "message_key": key, "taken": count}
        for (destination, key), count in sorted(counts.items())
    ]


def _numbers(rows: Rows) -> dict[Line, Number]:
    return {(destination, key): Number(epoch, last) for destination, key, epoch, last in rows}
