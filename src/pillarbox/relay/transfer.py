"""The polling relay where the database itself is the broker: records are moved, not sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from pillarbox.observe import DestinationNotReady, MessagesPublished, Observer
from pillarbox.relay.handover import HandOver
from pillarbox.relay.pauses import OUTBOX, RELEASED, Pauses
from pillarbox.relay.reader import OutboxTransfer, Transferred
from pillarbox.relay.relay import Publication
from pillarbox.relay.settings import RelaySettings
from pillarbox.transaction import Program

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper


class _Transfer(Protocol):
    def __call__(
        self,
        scope: str,
        tokens: Sequence[int],
        *,
        slots: Sequence[int],
        paused: Sequence[str],
        limit: int,
        keep: bool,
    ) -> Program[Transferred]: ...


class TransferPublication(Publication):
    """Moves records to the queues of the same database: fan-out and settlement are one transaction."""

    def __init__(
        self,
        *,
        transfer: OutboxTransfer,
        hand_over: HandOver,
        keeper: LeaseKeeper,
        settings: RelaySettings,
        observer: Observer,
        dice: Callable[[], float],
    ) -> None:
        """Move what is in the slots of ``keeper``; ``dice`` draws the length of pauses."""
        self._transfer = transfer
        self._hand_over = hand_over
        self._source = keeper.source
        self._keeper = keeper
        self._settings = settings
        self._clock = keeper.clock
        self._observer = observer
        self._pauses = Pauses(first=settings.longest_poll, longest=settings.longest_backoff, dice=dice)

    async def advance(self) -> bool:
        """Move one batch."""
        await self._hand_over.take_over()
        return await self._move(self._transfer.transfer, of=OUTBOX)

    async def advance_released(self) -> bool:
        """Move one batch of what another broker had refused."""
        return await self._move(self._transfer.transfer_released, of=RELEASED)

    async def flush(self) -> None:
        """Do nothing: a transfer leaves nothing in flight."""

    async def close(self) -> None:
        """Do nothing: no connection is kept."""

    async def _move(self, transfer: _Transfer, *, of: str) -> bool:
        now = self._clock.monotonic()
        tokens = self._keeper.tokens
        moved = await self._source.run(
            transfer(
                self._keeper.terms.scope,
                sorted(tokens.values()),
                slots=sorted(tokens),
                paused=self._pauses.left_out(of=of, now=now),
                limit=self._settings.batch,
                keep=self._settings.keep is not None,
            )
        )
        for destination in moved.reached:
            self._pauses.succeeded(destination)
        for destination in moved.not_ready:
            pause = self._pauses.pause(destination, now=now)
            self._observer.notice(DestinationNotReady(destination=destination, retry_after=pause))
        if moved.moved:
            self._observer.notice(MessagesPublished(count=moved.moved))
        return moved.full
