"""The outbox as an operator works with it: what waits, and what to do about records that their broker refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime, timedelta

from pillarbox.audit import checked
from pillarbox.errors import ConfigurationError, ConflictError, NotFoundError
from pillarbox.errors.values import check_limit
from pillarbox.observe import EpochBegun, Observer, Observers, RecordsRepublished
from pillarbox.outbox import (
    KeptRecords,
    KeyNumbers,
    OutboxPartitions,
    OutboxState,
    OutboxStore,
    ParkedRecord,
    ParkedRecords,
    PublishedRecords,
)
from pillarbox.transaction import TransactionSource

AT_ONCE = 1000
"""Records that one transaction removes or republishes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Republication:
    """Records that are to be published once more.

    Attributes:
        wanted: which of them; with the same instants an interrupted command goes on where it stopped.
        count: how many they were at the beginning.
    """

    wanted: KeptRecords
    count: int


class OutboxControl:
    """Looks at the outbox, and decides about its parked records."""

    def __init__(
        self,
        *,
        outbox: OutboxStore,
        parked: ParkedRecords,
        published: PublishedRecords,
        source: TransactionSource,
        numbers: KeyNumbers,
        partitions: OutboxPartitions | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Work on the records behind these ports, and tell ``observer`` of what is republished."""
        self._outbox = outbox
        self._parked = parked
        self._published = published
        self._partitions = partitions
        self._numbers = numbers
        self._source = source
        self._observer = observer if observer is not None else Observers()

    async def state(self) -> OutboxState:
        """Count what waits."""
        return await self._source.run(self._outbox.state())

    async def parked(self, *, after: int = 0, limit: int = 100) -> tuple[ParkedRecord, ...]:
        """Return up to ``limit`` parked records with a position above ``after``, oldest first."""
        check_limit(limit)
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
        checked(by=by, reason=reason)
        return _found(await self._source.run(self._parked.skip(message_id, by=by, because=reason)), message_id)

    async def begin_epoch(self, *, by: str, reason: str) -> int:
        """Let all numbers begin at 1 again in a new epoch: after a restore from a backup, before anything is published.

        Else numbers that were given since the backup would be given again, and consumers would take their messages for
        mistakes.

        Args:
            by: who decides.
            reason: why; told to observers.

        Returns:
            How many keys have begun anew.
        """
        checked(by=by, reason=reason)
        count = await self._source.run(self._numbers.begin_epoch())
        self._observer.notice(EpochBegun(keys=count, by=by, reason=reason))
        return count

    async def count_older(self, older_than: timedelta) -> int:
        """Count the kept records that ``purge`` would remove."""
        return await self._source.run(self._published.count_older(older_than))

    async def purge(self, older_than: timedelta) -> int:
        """Remove kept records that were published longer ago than ``older_than``, in short transactions.

        What is still to be published stays. Partitions that hold nothing younger are dropped whole, unless others use
        the outbox at that moment.

        Returns:
            How many records were removed one by one; those of dropped partitions are not counted.
        """
        purged, batch = 0, AT_ONCE
        while batch == AT_ONCE:  # records grow old all the time: while there is one it would never end
            batch = await self._source.run(self._published.purge(older_than, limit=AT_ONCE))
            purged += batch
        if self._partitions is not None:
            for partition in await self._source.run(self._partitions.find_droppable(older_than)):
                try:
                    await self._source.run(self._partitions.drop(partition))
                except ConflictError:
                    break  # a relay does it later
        return purged

    async def choose_kept(
        self,
        *,
        since: datetime,
        until: datetime | None = None,
        type: str | None = None,  # the word that messages use
        key: str | None = None,
        destination: str | None = None,
    ) -> Republication:
        """Name the kept records that were published from ``since`` until ``until``, and count them.

        Args:
            since: an instant with its time zone.
            until: likewise; left out: now.
            type: of this message type only.
            key: of this key only.
            destination: of this destination only.

        Raises:
            ConfigurationError: no published record is kept at all, or the time ends before it begins.
        """
        if until is not None and until <= since:
            raise ConfigurationError(f"until={until.isoformat()} is no later than since={since.isoformat()}")
        now = await self._source.run(self._published.now())
        if not await self._source.run(self._published.is_any_kept()):
            raise ConfigurationError(
                "no published record is kept; set RelaySettings(keep=timedelta(…)) so that relays keep what they "
                "publish from then on. An outbox that stands in the database's log alone keeps nothing"
            )
        await self._source.run(self._published.remember(every=timedelta(0)))
        until = now if until is None else min(until, now)
        wanted = KeptRecords(since=since, until=until, type=type, key=key, destination=destination)
        return Republication(wanted=wanted, count=await self._source.run(self._published.count(wanted)))

    async def republish(self, republication: Republication, *, by: str, reason: str) -> AsyncGenerator[int]:
        """Append kept records to the outbox again, oldest first, batch by batch; yield how many each one moved.

        They keep their message ids, so consumers that have processed them suppress them. Each batch is a transaction
        that moves its records: interrupted, the same republication goes on with those that are left.

        Args:
            republication: which records, from ``choose_kept``.
            by: who decides.
            reason: why; told to observers with the number of records.
        """
        checked(by=by, reason=reason)
        wanted, done = republication.wanted, 0
        try:
            while batch := await self._source.run(self._published.republish(wanted, limit=AT_ONCE)):
                done += batch
                yield batch
        finally:
            since, until = wanted.since.isoformat(), wanted.until.isoformat()
            self._observer.notice(RecordsRepublished(count=done, since=since, until=until, by=by, reason=reason))


def _found(released: int | None, message_id: str) -> int:
    if released is None:
        raise NotFoundError(kind="parked record", identifier=message_id)
    return released
