"""How many sagas are in hand at once: fewer where what is kept of them is large. Pure."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillarbox.saga.store import SagaRow

MOST_CHARS = 16_000_000
"""States and journals may come to about so much, of those that one transaction reads and those with calls under way.

Each stands in memory several times: as it was read, decoded, as it is to be written, and in the statement that does.
"""
AT_FIRST = 20
"""So many are taken before it is known how large they are: a process that ran out of memory starts again."""


class Load:
    """Bounds the sagas in hand by what the last ones weighed."""

    def __init__(self, *, largest: int) -> None:
        """Take ``largest`` at most, however small they are."""
        self._largest = largest
        self.most = min(AT_FIRST, largest)
        """So many may be in hand."""

    def weigh(self, rows: Sequence[SagaRow]) -> Sequence[SagaRow]:
        """Learn from what was read; what is light is taken in twice as large a number the next time.

        Returns:
            The first of ``rows`` that come to the bound, one at least: large ones may have followed upon small ones.
        """
        if not rows:
            return rows
        chars = list(accumulate(len(row.state) + len(row.journal) for row in rows))
        fitting = MOST_CHARS * len(rows) // max(chars[-1], 1)
        self.most = max(1, min(self._largest, fitting, max(2 * self.most, AT_FIRST)))
        return rows[: max(1, bisect_right(chars, MOST_CHARS))]
