"""The gaps of consumers that go by numbers, as an operator works with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pillarbox.audit import checked
from pillarbox.consumer.gap_watch import Lines, fetch_missing
from pillarbox.consumer.positions import Gap
from pillarbox.errors import ConflictError, NotFoundError
from pillarbox.errors.values import check_limit
from pillarbox.observe import GapSkipped, Observer, Observers
from pillarbox.ordering import Kept, Missing
from pillarbox.outbox.record import Line
from pillarbox.transaction import Program, TransactionSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedGap:
    """What became of a gap.

    Attributes:
        first: the first number that was missing.
        last: the last one.
        count: how many messages go on now, or how many were fetched.
    """

    first: int
    last: int
    count: int


class GapsControl:
    """Looks at gaps, goes on without what is missing, or fetches it."""

    def __init__(
        self, *, lines: Lines, kept: Kept, source: TransactionSource, observer: Observer | None = None
    ) -> None:
        """Work through these ports; ``kept`` is what the store itself keeps."""
        self._lines = lines
        self._kept = kept
        self._source = source
        self._observer = observer if observer is not None else Observers()

    async def list(self, consumer: str | None = None, *, limit: int = 100) -> tuple[Gap, ...]:
        """Return the gaps that have stalled longest, of one consumer or of all."""
        check_limit(limit)
        return tuple(await self._source.run(self._lines.gaps.find(consumer, limit=limit)))

    async def skip(
        self, consumer: str, channel: str, key: str, *, by: str, reason: str, force: bool = False
    ) -> ClosedGap:
        """Go on without what is missing before the first message that waits.

        The numbers are noted with who decided and why; what comes of them after all is a dead letter, ``late``.

        Args:
            consumer: whose gap it is.
            channel: the line's destination.
            key: the line's key.
            by: who decides.
            reason: why.
            force: also what may have come: it waits in the hold of its key, or a handler is at work on it.

        Raises:
            NotFoundError: nothing is missing there (any more); nothing was changed.
            ConflictError: a run is at work in that line, or what is missing may have come; nothing was changed.
        """
        checked(by=by, reason=reason)
        closed = await self._source.run(self._skip(consumer, (channel, key), by, reason, force=force))
        skipped = GapSkipped(
            consumer=consumer, channel=channel, first=closed.first, last=closed.last, by=by, because=reason
        )
        self._observer.notice(skipped)
        return closed

    async def fetch(self, consumer: str, channel: str, key: str, *, kept: Kept | None = None) -> ClosedGap:
        """Fetch what is missing where its producer keeps it; what is not kept any more stays missing.

        Args:
            consumer: whose gap it is.
            channel: the line's destination.
            key: the line's key.
            kept: who keeps the messages; the store itself unless given.

        Raises:
            NotFoundError: nothing is missing there (any more); nothing was changed.
            ConflictError: a run is at work in that line; try again.
        """
        gap, missing = await self._source.run(self._locked(consumer, (channel, key)))
        found = await fetch_missing(
            kept or self._kept, gap, missing, lines=self._lines, source=self._source, limit=missing.last
        )
        return ClosedGap(first=missing.first.number, last=missing.last, count=found)

    def _skip(self, consumer: str, line: Line, by: str, reason: str, *, force: bool) -> Program[ClosedGap]:
        gap, missing = yield from self._locked(consumer, line)
        if not force:
            _refuse_what_may_have_come(gap)
        count = yield from self._lines.skip(gap, by=by, because=reason)
        return ClosedGap(first=missing.first.number, last=missing.last, count=count)

    def _locked(self, consumer: str, line: Line) -> Program[tuple[Gap, Missing]]:
        gaps: Sequence[Gap] = yield from self._lines.gaps.find(consumer, limit=ALL)
        if not any(one.line == line and one.missing is not None for one in gaps):
            raise NotFoundError(kind="gap", identifier=" ".join((consumer, *line)))
        gap = yield from self._lines.gaps.look(consumer, line)
        if gap is None or gap.missing is None:
            raise ConflictError(f"{consumer} is at work on key {line[1]!r} of {line[0]}; look again")
        return gap, gap.missing


def _refuse_what_may_have_come(gap: Gap) -> None:
    """Make sure that nothing is skipped that is there: it would be a dead letter though its handler may succeed.

    Raises:
        ConflictError: it may be there.
    """
    whose = f"of key {gap.line[1]!r} of {gap.line[0]}"
    if gap.held:
        raise ConflictError(
            f"what is missing {whose} may wait in the hold of its key; see to that first, as `pillarbox held list` "
            "shows it, or insist by force"
        )
    if gap.position.is_busy:
        numbers = f"number {gap.position.admitted} {whose}"
        raise ConflictError(f"{gap.consumer} may be at work on {numbers}; look again, or insist by force")


ALL = 2**31
