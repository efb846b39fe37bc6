"""Work in rounds: what is done again and again, until it is to end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from pillarbox.channel.wakeup import Wakeup
from pillarbox.errors import ConflictError, TransientError
from pillarbox.observe import Observer, WorkerFaltered

if TYPE_CHECKING:
    from pillarbox.clock import Clock

AT_ONCE = timedelta(0)


class Loop(Protocol):
    """What runs until it is stopped."""

    @abstractmethod
    async def run(self) -> None:
        """Work until ``stop``."""

    @abstractmethod
    def stop(self) -> None:
        """End ``run`` soon, with nothing left half done."""


class Rounds(Loop, ABC):
    """A loop that works in rounds, with a pause after each.

    A round that another try may mend (``TransientError``, ``ConflictError``) is told of, and the next one comes after
    the usual time; any other error ends ``run``.
    """

    def __init__(
        self, name: str, *, every: timedelta, clock: Clock, observer: Observer, first_after: timedelta = AT_ONCE
    ) -> None:
        """Work ``every`` so often, for the first time ``first_after``; ``name`` is told of when a round fails."""
        self._name = name
        self._every = every
        self._clock = clock
        self._observer = observer
        self._first_after = first_after
        self._wakeup = Wakeup()
        self._stopping = False

    def stop(self) -> None:
        """End ``run`` after the round under way."""
        self._stopping = True
        self._wakeup.ring()

    async def run(self) -> None:
        """Work until ``stop``, then leave."""
        pause = self._first_after
        while not await self._is_over_after(pause):
            try:
                pause = self.pause_after(await self.round())
            except (TransientError, ConflictError) as error:
                pause = self._every
                self._observer.notice(WorkerFaltered.by(error, worker=self._name, retry_after=pause))
        await self.leave()

    @abstractmethod
    async def round(self) -> int | None:
        """Do what there is to do now; return whether there was anything, or how much, where that matters.

        Raises:
            TransientError, ConflictError: the database was away or asked for another try; what is left stays due.
        """

    def pause_after(self, found: int | None) -> timedelta:
        """Return how long to rest after a round that ``found`` something, or nothing."""
        del found
        return self._every

    async def leave(self) -> None:
        """Let others go on at once."""

    async def _is_over_after(self, pause: timedelta) -> bool:
        """Rest, unless it is to end; return whether it is."""
        if pause > AT_ONCE and not self._stopping:
            await self._wakeup.wait(self._clock, pause)
        return self._stopping
