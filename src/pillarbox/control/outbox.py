"""The outbox as an operator works with it: what waits, and what to do about records that their broker refused."""

from __future__ import annotations

from pillarbox.errors import NotFoundError
from pillarbox.outbox import OutboxState, OutboxStore, ParkedRecord, ParkedRecords
from pillarbox.transaction import TransactionSource


class OutboxControl:
    """Looks at the outbox, and decides about its parked records."""

    def __init__(self, *, outbox: OutboxStore, parked: ParkedRecords, source: TransactionSource) -> None:
        """Work on the records behind these ports."""
        self._outbox = outbox
        self._parked = parked
        self._source = source

    async def state(self) -> OutboxState:
        """Count what waits."""
        return await self._source.run(self._outbox.state())

    async def parked(self, *, after: int = 0, limit: int = 100) -> tuple[ParkedRecord, ...]:
        """Return up to ``limit`` parked records with a position above ``after``, oldest first."""
        return tuple(await self._source.run(self._parked.find(after=after, limit=limit)))

    async def retry(self, message_id: str) -> int:
        """Publish a parked record after all, and everything of its key in its order.

        If the broker refuses it again it is parked again.

        Returns:
            How many records may go on.

        Raises:
            NotFoundError: no such record is parked; nothing was changed.
        """
        return _found(await self._source.run(self._parked.release(message_id)), message_id)

    async def skip(self, message_id: str, *, by: str, reason: str) -> int:
        """Give up a parked record, so that what waits behind it is published.

        The record is kept, marked with who decided and why; its consumers will not get it.

        Args:
            message_id: the record's message.
            by: who decides.
            reason: why; kept with the record.

        Returns:
            How many records may go on; none while another record of the key is parked.

        Raises:
            NotFoundError: no such record is parked; nothing was changed.
        """
        if not (by.strip() and reason.strip()):
            raise ValueError("by= must say who gives the message up, and reason= why")
        return _found(await self._source.run(self._parked.skip(message_id, by=by, because=reason)), message_id)


def _found(released: int | None, message_id: str) -> int:
    if released is None:
        raise NotFoundError(kind="parked record", identifier=message_id)
    return released
