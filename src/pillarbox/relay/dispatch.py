"""Sends records in waves and sorts what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

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
from pillarbox.observe import BrokerAway, DestinationNotReady, Observer, RecordParked
from pillarbox.relay.pauses import Pauses
from pillarbox.relay.reader import Key, PendingRecord
from pillarbox.relay.settings import RelaySettings
from pillarbox.relay.waves import key_of, waves

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper

THE_BROKER = "broker"


@dataclass(slots=True)
class Sent:
    """What became of records that were sent.

    Attributes:
        confirmed: the broker has them; position → token of the slot when it was sent.
        refused: the broker will not take them, and why.
        not_ready: nobody listens to their destinations yet.
        complete: every record was confirmed; else some wait to be sent again.
    """

    confirmed: dict[int, int] = field(default_factory=dict[int, int])
    refused: list[tuple[PendingRecord, str]] = field(default_factory=list[tuple[PendingRecord, str]])
    not_ready: list[PendingRecord] = field(default_factory=list[PendingRecord])
    complete: bool = True


class Dispatch:
    """Sends records so that nothing overtakes an earlier one of its key, and remembers who takes nothing now.

    A key stops at its first record that is not confirmed.
    """

    def __init__(
        self,
        *,
        sender: MessageSender,
        keeper: LeaseKeeper,
        settings: RelaySettings,
        observer: Observer,
        dice: Callable[[], float],
    ) -> None:
        """Send through ``sender`` while the slots of ``keeper`` are held; ``dice`` draws the length of pauses."""
        self._sender = sender
        self._keeper = keeper
        self._clock = keeper.clock
        self._settings = settings
        self._observer = observer
        self._pauses = Pauses(first=settings.longest_poll, longest=settings.longest_backoff, dice=dice)
        self._tried: set[str] = set()
        """Destinations by which the broker was tried in vain: it may be there for all others."""
        self._spares = True
        """Whether the broker is probed by none that failed alone before: while there are others."""

    @property
    def is_away(self) -> bool:
        """Whether the broker failed and is left alone for a while."""
        return self._pauses.is_paused(THE_BROKER, now=self._clock.monotonic())

    @property
    def limit(self) -> int:
        """How many records to send next: one as a probe after the broker failed."""
        return 1 if self._pauses.has_failed(THE_BROKER) else self._settings.batch

    def left_out(self, *, of: str) -> list[str]:
        """Return the destinations that the next read ``of`` a place leaves alone: a while, or for the next probe."""
        now = self._clock.monotonic()
        if not self._pauses.has_failed(THE_BROKER):
            return self._pauses.left_out(of=of, now=now)
        left = self._pauses.failed() if self._spares else self._pauses.active(now=now)
        return sorted(self._tried.union(left) - {THE_BROKER})

    async def send(self, records: Sequence[PendingRecord]) -> Sent:
        """Send ``records``, which are in order; those of slots that are no longer held are not sent."""
        sent = Sent()
        stopped = set[Key]()
        for wave in waves(records, ordered_prefix=self._sender.capabilities.ordered_prefix):
            tokens = self._keeper.tokens  # empty once the lease can no longer be trusted
            wanted = [record for record in wave if record.slot in tokens]
            if stopped:
                wanted = [record for record in wanted if key_of(record) not in stopped]
            sent.complete = sent.complete and len(wanted) == len(wave)
            is_away = False
            for record, result in zip(wanted, await self._send(wanted), strict=True):
                if isinstance(result, Confirmed):
                    sent.confirmed[record.position] = tokens[record.slot]
                    self._pauses.succeeded(record.message.destination)
                    continue
                sent.complete = False
                stopped.add(key_of(record))
                is_away = is_away or isinstance(result, Unavailable)
                if isinstance(result, (Unavailable, Unknown)):
                    self._tried.add(record.message.destination)
                    self._spares = self._spares or self._pauses.has_failed(record.message.destination)
                self._sort(record, result, sent)
            if is_away:
                break
        return sent

    def nothing_else(self) -> None:
        """Note that there is nothing to probe the broker by but what has failed already."""
        if not self._pauses.has_failed(THE_BROKER):
            return
        if self._spares:
            self._tried.intersection_update(self._pauses.failed())
        else:
            self._tried.clear()
        self._spares = not self._spares

    def parked(self, record: PendingRecord, reason: str) -> None:
        """Tell that a refused record was put aside."""
        message = record.message
        self._observer.notice(RecordParked(message_id=message.id, destination=message.destination, reason=reason))

    async def _send(self, wave: Sequence[PendingRecord]) -> Sequence[SendResult]:
        if not wave:
            return ()
        try:
            async with asyncio.timeout(self._settings.lease.total_seconds() / 3):
                results = await self._sender.send([record.message for record in wave])
        except TimeoutError:
            return [Unknown("the broker did not confirm in time")] * len(wave)
        if any(isinstance(result, Confirmed) for result in results):
            self._succeeded()
        return results

    def _succeeded(self) -> None:
        """Note that the broker is there; what was probed in vain before fails alone, so that it is left alone."""
        self._pauses.succeeded(THE_BROKER)
        for destination in self._tried:
            self._pauses.pause(destination, now=self._clock.monotonic())
        self._tried.clear()
        self._spares = True

    def _sort(
        self,
        record: PendingRecord,
        result: Refused | NotReady | Unavailable | Unknown | NotSent,
        sent: Sent,
    ) -> None:
        now = self._clock.monotonic()
        destination = record.message.destination
        match result:
            case Refused(reason):
                sent.refused.append((record, reason))
            case NotReady():
                sent.not_ready.append(record)
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
