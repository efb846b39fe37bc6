"""The loop that every kind of relay shares: keep the leases, release what is due, publish.

microservices.io: *Transactional outbox*, message relay.
"""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from pillarbox.channel.wakeup import Pace, Wakeup
from pillarbox.errors import ConflictError, TransientError
from pillarbox.observe import Observer, WorkerFaltered
from pillarbox.relay.reader import SlotReader
from pillarbox.relay.settings import RelaySettings
from pillarbox.relay.upkeep import Upkeep

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper

SCOPE = "relay"
"""The lease scope that every kind of relay shares, so that no two publish side by side."""
STEADY_POLLS = 20
"""Where records come every few milliseconds, none of them should find the relay in one of its longer pauses."""


class Publication(Protocol):
    """How a relay gets records from the outbox to their destinations: what sets the kinds of relay apart."""

    @abstractmethod
    async def advance(self) -> bool:
        """Publish and settle some of what waits in the slots held; return whether there may be more at once.

        Raises:
            TransientError, ConflictError: the database was away or asked for another try; nothing is lost.
        """

    @abstractmethod
    async def advance_released(self) -> bool:
        """Publish some of the records that had been put aside and may go on; return whether there may be more."""

    @abstractmethod
    async def flush(self) -> None:
        """Settle what has been published; nothing is in flight afterwards."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections; what was in flight is forgotten and will be published again."""


class Relay:
    """One instance of the relay; any number of them share the slots, or take turns with all of them.

    The leases live only as long as this loop makes progress.
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
        upkeep: Upkeep | None = None,
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
        self._upkeep = upkeep
        self._stopping = False
        self._look_aside_from = float("-inf")

    def stop(self) -> None:
        """End ``run`` after the batch under way is settled."""
        self._stopping = True
        self._wakeup.ring()

    async def run(self) -> None:
        """Publish until ``stop``; then settle what is in flight and give the slots back.

        Cancelling ends it at once: what was published without being settled will be published again by another.
        """
        settings = self._settings
        pace = Pace(shortest=settings.shortest_poll, longest=settings.longest_poll, steady=STEADY_POLLS)
        try:
            while not self._stopping:
                try:
                    busy = await self._pass()
                except (TransientError, ConflictError) as error:
                    await self._falter(error)
                    continue
                if busy or await self._wakeup.wait(self._clock, pace.pause()):
                    pace.found_work()
            await self._end()
        finally:
            await self._publication.close()

    async def _end(self) -> None:
        """Settle and leave; a database that does not answer is asked again for as long as the leases can be trusted."""
        while True:
            try:
                await self._keeper.keep()  # a slow batch may have outlasted what the leases are trusted for
                await self._publication.flush()
                return await self._keeper.leave()
            except (TransientError, ConflictError) as error:
                if not self._keeper.tokens:
                    raise
                await self._falter(error)

    async def _pass(self) -> bool:
        await self._keeper.keep()
        if surplus := self._keeper.surplus:
            await self._publication.flush()
            await self._keeper.give_back(surplus)
        if not self._keeper.tokens:
            return False
        if self._upkeep is not None:
            await self._upkeep.step()
        moved = await self._look_aside()
        return await self._publication.advance() or moved

    async def _look_aside(self) -> bool:
        """Move what is due into the outbox and publish what was released: seldom, since there is seldom any."""
        now = self._clock.monotonic()
        if now < self._look_aside_from:
            return False
        if not await self._source.run_single(self._reader.has_beside(sorted(self._keeper.tokens))):
            self._look_aside_from = now + self._settings.longest_poll.total_seconds()
            return False
        tokens = sorted(self._keeper.tokens.values())
        batch = self._settings.batch
        due = await self._source.run(self._reader.release_due(self._keeper.terms.scope, tokens, limit=batch))
        more = await self._publication.advance_released()
        if due < batch and not more:
            self._look_aside_from = now + self._settings.longest_poll.total_seconds()
        return due > 0 or more

    async def _falter(self, error: Exception) -> None:
        pause = timedelta(0) if isinstance(error, ConflictError) else self._settings.longest_poll
        self._observer.notice(WorkerFaltered.by(error, worker="relay", retry_after=pause))
        await self._clock.sleep(pause)
