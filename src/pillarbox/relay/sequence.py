"""The sequence relay: an append-only outbox, read by a cursor that loses no late commit.

On PostgreSQL the cursor is a pair of snapshots and a position: records are published that the second snapshot sees and
the first one did not, in the order of their positions; then the second becomes the first. A transaction that took its
position early and commits late is seen by a later snapshot. Where there is one writer at a time, a position is enough.
Source: PgQ's ticks; eugene-khyst, *PostgreSQL event sourcing*, for what goes wrong without.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from pillarbox.errors import LeaseLostError
from pillarbox.observe import CursorRebased, Observer
from pillarbox.relay.handover import AT_A_TIME
from pillarbox.relay.reader import Aside, PendingRecord
from pillarbox.relay.watermark import Feed
from pillarbox.transaction import Program

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far the outbox has been published.

    Attributes:
        since: the snapshot whose records are all published.
        until: the snapshot whose records are being published.
        position: of the records that ``until`` sees and ``since`` does not, those up to here are published.
        highest: the highest position that was ever published.
    """

    since: str
    until: str
    position: int
    highest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one reading goes through: the records between two snapshots.

    Attributes:
        floor: no record of transactions that began after ``since`` has a position below.
    """

    since: str
    until: str
    floor: int


class SequenceReader(Protocol):
    """What a sequence relay sees of the outbox.

    Every implementation must pass ``pillarbox.testing.contracts.SequenceReaderContract``.
    """

    @abstractmethod
    def load(self, scope: str, tokens: Sequence[int]) -> Program[Cursor | None]:
        """Return the cursor, made when there is none; ``None`` when it belongs to another database cluster.

        Raises:
            LeaseLostError: none of ``tokens`` is valid.
        """

    @abstractmethod
    def rebase(self, scope: str, tokens: Sequence[int], *, keep: bool, limit: int) -> Program[bool]:
        """Remove up to ``limit`` records that the cursor has passed, then the cursor; return whether more is left.

        With ``keep`` they are kept among the published ones.
        """

    @abstractmethod
    def reopen(self, cursor: Cursor) -> Program[Window]:
        """Return the window that ``cursor`` stands in."""

    @abstractmethod
    def following(self, since: str) -> Program[Window | None]:
        """Return the window from ``since`` to now; ``None`` when no record is in it."""

    @abstractmethod
    def read(self, window: Window, *, after: int, limit: int) -> Program[Sequence[PendingRecord]]:
        """Return the first records of ``window`` above the position ``after``, in order; a single statement."""

    @abstractmethod
    def advance(
        self, scope: str, tokens: Sequence[int], *, old: Cursor, new: Cursor, asides: Sequence[Aside]
    ) -> Program[bool]:
        """Set the cursor from ``old`` to ``new`` and put records aside; false when it was not ``old`` or not ours.

        A single statement when ``asides`` is empty.
        """


class SequenceFeed(Feed):
    """Gives the records of one window after the other."""

    def __init__(self, *, reader: SequenceReader, keeper: LeaseKeeper, observer: Observer, keep: bool = False) -> None:
        """Read with the leases of ``keeper``, and ``keep`` what is taken out of the outbox."""
        self._reader = reader
        self._keeper = keeper
        self._source = keeper.source
        self._observer = observer
        self._keep = keep
        self._cursor = Cursor(since="", until="", position=0, highest=0)
        self._window: Window | None = None
        self._since = ""
        self._after = 0
        self._given: dict[int, Window] = {}
        """Position → window of what was given and is not settled."""

    async def open(self) -> None:
        """Load the cursor; in another cluster than the one where it was written, start over with the rest."""
        cursor = await self._source.run(self._reader.load(*self._fence))
        if cursor is None:
            while await self._source.run(self._reader.rebase(*self._fence, keep=self._keep, limit=AT_A_TIME)):
                await self._keeper.keep()
            self._observer.notice(CursorRebased())
            cursor = await self._source.run(self._reader.load(*self._fence))
        if cursor is None:
            raise LeaseLostError(lease=self._keeper.terms.scope, token=max(self._keeper.tokens.values(), default=0))
        self._cursor = cursor
        self._since, self._after = cursor.since, cursor.position
        self._window = await self._source.run(self._reader.reopen(cursor))
        self._given.clear()

    async def next(self, *, limit: int) -> Sequence[PendingRecord]:
        """Read on in the window, or in those that follow it."""
        while (window := await self._window_at_hand()) is not None:
            found = await self._source.run_single(self._reader.read(window, after=self._after, limit=limit))
            if len(found) < limit:
                self._window, self._since = None, window.until
            if found:
                self._after = found[-1].position
                self._given.update((record.position, window) for record in found)
                return found
        return ()

    async def _window_at_hand(self) -> Window | None:
        if self._window is None:
            self._window = await self._source.run_single(self._reader.following(self._since))
            self._after = 0
        return self._window

    async def settle(self, done: Sequence[PendingRecord], asides: Sequence[Aside]) -> None:
        """Set the cursor to the last of ``done``."""
        last = done[-1].position
        window = self._given[last]
        new = replace(
            self._cursor,
            since=window.since,
            until=window.until,
            position=last,
            highest=max(self._cursor.highest, *(record.position for record in done)),
        )
        program = self._reader.advance(*self._fence, old=self._cursor, new=new, asides=asides)
        moved = await (self._source.run(program) if asides else self._source.run_single(program))
        if not moved:
            raise LeaseLostError(lease=self._keeper.terms.scope, token=max(self._keeper.tokens.values(), default=0))
        self._cursor = new
        for record in done:
            del self._given[record.position]

    async def close(self) -> None:
        """Do nothing: no connection is kept."""

    @property
    def _fence(self) -> tuple[str, Sequence[int]]:
        return self._keeper.terms.scope, sorted(self._keeper.tokens.values())
