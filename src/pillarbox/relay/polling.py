"""The polling relay: reads the slots that it leases, publishes, settles.

microservices.io: *Polling publisher*.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from pillarbox.channel.wakeup import Pace, Wakeup
from pillarbox.errors import ConflictError, TransientError
from pillarbox.observe import Observer, WorkerFaltered
from pillarbox.relay.publication import Publication
from pillarbox.relay.reader import SlotReader
from pillarbox.relay.settings import RelaySettings

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper

SCOPE = "relay"
"""The lease scope that every kind of relay shares, so that no two publish side by side."""


class PollingRelay:
    """One instance of the relay; any number of them share the slots.

    Each pass starts at the oldest record that is not settled, since a transaction that took its position early may
    commit late. The leases live only as long as this loop makes progress.
    """

    def __init__(
        self,
        *,
        publication: Publication,
        keeper: LeaseKeeper,
        reader: SlotReader,
        settings: RelaySettings,
        wakeup: Wakeup,
        observer: Observer,
    ) -> None:
        """Work on the slots of ``keeper``, with its clock and its database."""
        self._publication = publication
        self._keeper = keeper
        self._reader = reader
        self._source = keeper.source
        self._settings = settings
        self._clock = keeper.clock
        self._wakeup = wakeup
        self._observer = observer
        self._stopping = False
        self._look_at_schedule_from = float("-inf")

    def stop(self) -> None:
        """End ``run`` after the batch under way is settled."""
        self._stopping = True
        self._wakeup.ring()

    async def run(self) -> None:
        """Publish until ``stop``; then settle what is in flight and give the slots back.

        Cancelling ends it at once: what was published without being settled will be published again by another.
        """
        pace = Pace(shortest=self._settings.shortest_poll, longest=self._settings.longest_poll)
        while not self._stopping:
            try:
                busy = await self._pass()
            except (TransientError, ConflictError) as error:
                await self._falter(error)
                continue
            if busy or await self._wakeup.wait(self._clock, pace.pause()):
                pace.found_work()
        await self._publication.flush()
        await self._keeper.leave()

    async def _pass(self) -> bool:
        await self._keeper.keep()
        if surplus := self._keeper.surplus:
            await self._publication.flush()
            await self._keeper.give_back(surplus)
        if not self._keeper.tokens:
            return False
        released = await self._release_due()
        return await self._publication.advance() or released

    async def _release_due(self) -> bool:
        now = self._clock.monotonic()
        if now < self._look_at_schedule_from:
            return False
        tokens = sorted(self._keeper.tokens.values())
        batch = self._settings.batch
        released = await self._source.run(self._reader.release_due(self._keeper.terms.scope, tokens, limit=batch))
        if released < batch:
            self._look_at_schedule_from = now + self._settings.longest_poll.total_seconds()
        return released > 0

    async def _falter(self, error: Exception) -> None:
        pause = timedelta(0) if isinstance(error, ConflictError) else self._settings.longest_poll
        self._observer.notice(
            WorkerFaltered(worker="relay", error_type=type(error).__name__, error=str(error), retry_after=pause)
        )
        await self._clock.sleep(pause)
