"""Batches of replay runs where an INSERT cannot tell which rows it has inserted."""

from __future__ import annotations

from collections.abc import Sequence

from pillarbox.relational.replay_batches import ENQUEUE, RelationalReplayBatches
from pillarbox.transaction import Execute, Program


class MySqlReplayBatches(RelationalReplayBatches):
    """Batches as rows; what is in the way of a letter is looked for each time."""

    def _put(self, positions: Sequence[int]) -> Program[bool]:
        """Insert letters into holding; nothing is sure."""
        yield Execute(ENQUEUE, {"letters": positions})
        return False
