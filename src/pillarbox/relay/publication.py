"""The two ways records leave the outbox: sent to a broker and settled, or moved inside the database."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, assert_never

from pillarbox.channel import (
    Confirmed,
    MessageSender,
    NotReady,
    NotSent,
    Refused,
    SendResult,
    Unavailable,
    Unknown,
)
from pillarbox.lease import first_of
from pillarbox.observe import (
    BrokerAway,
    DestinationNotReady,
    MessagesPublished,
    Observer,
    RecordParked,
    SettlementRefused,
)
from pillarbox.relay.pauses import Pauses
from pillarbox.relay.reader import OutboxTransfer, PendingRecord, ReadPlan, SlotReader
from pillarbox.relay.settings import RelaySettings
from pillarbox.relay.waves import key_of, waves

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper

THE_BROKER = "broker"


class Publication(Protocol):
    """How a relay gets records from its slots to their destinations."""

    @abstractmethod
    async def advance(self) -> bool:
        """Publish and settle some of what waits in the slots held; return whether there may be more at once.

        Raises:
            TransientError, ConflictError: the database was away or asked for another try; nothing is lost.
        """

    @abstractmethod
    async def flush(self) -> None:
        """Settle what has been published; nothing is in flight afterwards."""


class TransferPublication(Publication):
    """Moves records to the queues of the same database: fan-out and settlement are one transaction."""

    def __init__(
        self,
        *,
        transfer: OutboxTransfer,
        keeper: LeaseKeeper,
        settings: RelaySettings,
        observer: Observer,
    ) -> None:
        """Move what is in the slots of ``keeper``."""
        self._transfer = transfer
        self._source = keeper.source
        self._keeper = keeper
        self._settings = settings
        self._clock = keeper.clock
        self._observer = observer
        self._pauses = Pauses(first=settings.longest_poll, longest=settings.longest_backoff)

    async def advance(self) -> bool:
        """Move one batch."""
        now = self._clock.monotonic()
        tokens = self._keeper.tokens
        moved = await self._source.run(
            self._transfer.transfer(
                self._keeper.terms.scope,
                sorted(tokens.values()),
                slots=sorted(tokens),
                paused=self._pauses.active(now=now),
                limit=self._settings.batch,
            )
        )
        for destination in moved.not_ready:
            pause = self._pauses.pause(destination, now=now)
            self._observer.notice(DestinationNotReady(destination=destination, retry_after=pause))
        if moved.moved:
            self._observer.notice(MessagesPublished(count=moved.moved))
        return moved.full

    async def flush(self) -> None:
        """Do nothing: a transfer leaves nothing in flight."""


class SendingPublication(Publication):
    """Sends records to a broker, waits for the confirms, then settles; three batches overlap.

    While one batch is published the next is read and the one before it is settled. A record that was not confirmed
    is read again first, and what was read behind it is read again too: nothing overtakes it.
    """

    def __init__(
        self,
        *,
        sender: MessageSender,
        reader: SlotReader,
        keeper: LeaseKeeper,
        settings: RelaySettings,
        observer: Observer,
    ) -> None:
        """Publish what is in the slots of ``keeper`` through ``sender``."""
        self._sender = sender
        self._reader = reader
        self._source = keeper.source
        self._keeper = keeper
        self._settings = settings
        self._clock = keeper.clock
        self._observer = observer
        self._pauses = Pauses(first=settings.longest_poll, longest=settings.longest_backoff)
        self._batch: Sequence[PendingRecord] = ()
        self._published: dict[int, int] = {}
        """Position → token of what is confirmed and not settled."""

    async def advance(self) -> bool:
        """Publish the batch at hand, read the next, settle the last."""
        now = self._clock.monotonic()
        if self._pauses.is_paused(THE_BROKER, now=now):
            self._batch = ()
            await self.flush()
            return False
        batch, self._batch = self._batch, ()
        published = dict(self._published)
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read(batch, published))
                group.create_task(self._settle(published))
                publishing = group.create_task(self._publish(batch))
        except BaseExceptionGroup as errors:
            raise first_of(errors) from errors
        if publishing.result():
            self._batch = reading.result()
        return bool(self._batch or self._published)

    async def flush(self) -> None:
        """Drop what is only read, settle what is published."""
        self._batch = ()
        await self._settle(dict(self._published))

    async def _read(self, batch: Sequence[PendingRecord], published: Mapping[int, int]) -> Sequence[PendingRecord]:
        tokens = self._keeper.tokens
        plan = ReadPlan(
            slots=sorted(tokens),
            in_flight=[*(record.position for record in batch), *published],
            paused=self._pauses.active(now=self._clock.monotonic()),
            limit=1 if self._pauses.has_failed(THE_BROKER) else self._settings.batch,
        )
        return await self._source.run_single(self._reader.read(plan))

    async def _settle(self, published: Mapping[int, int]) -> None:
        if not published:
            return
        scope, tokens = self._keeper.terms.scope, sorted(set(published.values()))
        settled = await self._source.run_single(self._reader.settle(scope, tokens, list(published)))
        for position in published:
            del self._published[position]
        self._observer.notice(MessagesPublished(count=settled))
        if settled < len(published):
            self._observer.notice(SettlementRefused(count=len(published) - settled))

    async def _publish(self, batch: Sequence[PendingRecord]) -> bool:
        """Send ``batch``; return whether every record of it was confirmed."""
        if held := [record for record in batch if record.held]:
            await self._put_behind(held)
        complete = not held
        stopped = set[tuple[str, str]]()
        sendable = [record for record in batch if not record.held]
        for wave in waves(sendable, ordered_prefix=self._sender.capabilities.ordered_prefix):
            tokens = self._keeper.tokens  # empty once the lease can no longer be trusted
            wanted = [record for record in wave if record.slot in tokens]
            if stopped:
                wanted = [record for record in wanted if key_of(record) not in stopped]
            complete = complete and len(wanted) == len(wave)
            is_away = False
            for record, result in zip(wanted, await self._send(wanted), strict=True):
                if isinstance(result, Confirmed):
                    self._published[record.position] = tokens[record.slot]
                    continue
                complete = False
                stopped.add(key_of(record))
                is_away = is_away or isinstance(result, Unavailable)
                await self._failed(record, result)
            if is_away:
                break
        return complete

    async def _send(self, wave: Sequence[PendingRecord]) -> Sequence[SendResult]:
        if not wave:
            return ()
        try:
            async with asyncio.timeout(self._settings.lease.total_seconds() / 3):
                results = await self._sender.send([record.message for record in wave])
        except TimeoutError:
            return [Unknown("the broker did not confirm in time")] * len(wave)
        if any(isinstance(result, Confirmed) for result in results):
            self._pauses.succeeded(THE_BROKER)
        return results

    async def _failed(
        self, record: PendingRecord, result: Refused | NotReady | Unavailable | Unknown | NotSent
    ) -> None:
        now = self._clock.monotonic()
        destination = record.message.destination
        match result:
            case Refused(reason):
                await self._park(record, reason)
            case NotReady():
                if not self._pauses.is_paused(destination, now=now):
                    pause = self._pauses.pause(destination, now=now)
                    self._observer.notice(DestinationNotReady(destination=destination, retry_after=pause))
            case Unavailable(reason) | Unknown(reason):
                if not self._pauses.is_paused(THE_BROKER, now=now):
                    pause = self._pauses.pause(THE_BROKER, now=now)
                    self._observer.notice(BrokerAway(reason=reason, retry_after=pause))
            case NotSent():
                pass
            case _:
                assert_never(result)

    async def _park(self, record: PendingRecord, reason: str) -> None:
        token = self._keeper.tokens.get(record.slot, -1)
        program = self._reader.park(self._keeper.terms.scope, [token], record.position, reason=reason)
        if await self._source.run(program):
            message = record.message
            self._observer.notice(RecordParked(message_id=message.id, destination=message.destination, reason=reason))

    async def _put_behind(self, held: Sequence[PendingRecord]) -> None:
        scope, tokens = self._keeper.terms.scope, sorted(self._keeper.tokens.values())
        await self._source.run(self._reader.put_behind(scope, tokens, [record.position for record in held]))
