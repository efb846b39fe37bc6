"""Which transactions a snapshot sees: pure decisions about numbers.

The log is ahead of what a database shows: a commit is written and sent before its transaction is taken off the list of
those under way, with a synchronous standby by the time that the standby takes. A row that is to be removed in between
would not be found. Source: PostgreSQL, ``RecordTransactionCommit`` and ``ProcArrayEndTransaction``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pillarbox.relay.log_reader import LogEntry

_EPOCH = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A snapshot.

    Attributes:
        oldest: every transaction below has ended.
        next: no transaction from here on had begun.
        under_way: those in between that had not ended.
    """

    oldest: int
    next: int
    under_way: frozenset[int]

    @classmethod
    def of(cls, text: str) -> Sight:
        """Read a snapshot as PostgreSQL spells it: ``oldest:next:under,way``."""
        oldest, following, listed = text.split(":")
        return cls(
            oldest=int(oldest),
            next=int(following),
            under_way=frozenset(map(int, listed.split(","))) if listed else frozenset(),
        )

    def sees(self, xid: int) -> bool:
        """Tell whether the transaction, whose number the log cuts off at 32 bits, had ended."""
        number = self.next - (self.next - xid) % _EPOCH
        if (self.next - xid) % _EPOCH >= _EPOCH // 2:  # it lies ahead, not half a round behind
            return False
        return number < self.oldest or (number < self.next and number not in self.under_way)

    def seen(self, entries: Iterable[LogEntry]) -> int:
        """Return how many of ``entries``, from the first on, are of transactions that are seen."""
        count, last, is_seen = 0, -1, True
        for entry in entries:
            transaction = entry.transaction
            if transaction is not None and transaction.xid != last:
                last, is_seen = transaction.xid, self.sees(transaction.xid)
            if not is_seen:
                break
            count += 1
        return count
