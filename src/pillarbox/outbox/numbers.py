"""Numbers of messages: gapless by destination and key, counted in the transaction that publishes."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from msgspec.structs import replace as changed

from pillarbox.message import Number
from pillarbox.outbox.record import Line, OutboxRecord
from pillarbox.transaction import Program


class KeyNumbers(Protocol):
    """The counters of numbered destinations, one for each key.

    Every implementation must pass ``pillarbox.testing.contracts.KeyNumbersContract``.
    """

    @abstractmethod
    def take(self, counts: Mapping[Line, int]) -> Program[Mapping[Line, Number]]:
        """Take the next numbers of each line, as many as asked for; return the last one of each.

        The counters are locked to the transaction's end, in sorted order. If it rolls back, nothing was taken.
        """

    @abstractmethod
    def begin_epoch(self) -> Program[int]:
        """Let every counter begin at 1 again, in a new epoch that consumers can tell from the old one; count them.

        After a restore from a backup, before anything is published: the numbers since then were given already.
        """


def give_numbers(records: Sequence[OutboxRecord], counters: KeyNumbers) -> Program[Sequence[OutboxRecord]]:
    """Return ``records``, each numbered one with the next number of its line, in their order."""
    counts = Counter(record.line for record in records if _wants_number(record))
    if not counts:
        return records
    last = yield from counters.take(counts)
    following = {line: last[line].number - count for line, count in counts.items()}
    given: list[OutboxRecord] = []
    for record in records:
        if _wants_number(record):
            following[record.line] += 1
            number = Number(last[record.line].epoch, following[record.line])
            message = changed(record.message, headers={**record.message.headers, **number.headers})
            given.append(replace(record, message=message, number=number.number))
        else:
            given.append(record)
    return given


def _wants_number(record: OutboxRecord) -> bool:
    return record.numbered and record.number is None
