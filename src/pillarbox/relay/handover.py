"""What a relay does first with slots that it has just leased: put away what another kind of relay left."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pillarbox.observe import LogGapFound, Observer
from pillarbox.relay.log_reader import LogGap
from pillarbox.relay.settings import RelayKind
from pillarbox.transaction import Program

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper

AT_A_TIME = 5000
"""Records that one transaction of a hand-over removes."""


class RelayMarks(Protocol):
    """How far the relays of each kind have come, where that is not said by the outbox itself.

    Every implementation must pass ``pillarbox.testing.contracts.RelayMarksContract``.
    """

    @abstractmethod
    def gap(self, successor: RelayKind) -> Program[LogGap | None]:
        """Return what the log lacks that a relay was to read, unless the ``successor`` finds that itself."""

    @abstractmethod
    def clear(
        self, scope: str, tokens: Sequence[int], *, successor: RelayKind, keep: bool, limit: int
    ) -> Program[bool]:
        """Remove up to ``limit`` records that a sequence relay published, then its cursor; return whether more is left.

        With ``keep`` they are kept among the published ones.

        What the ``successor`` itself left stays. The place in the log that a log tailing relay reached is forgotten
        too: what others publish from now on would else be read there again. Nothing is removed unless one of
        ``tokens`` is valid.
        """


class HandOver:
    """Takes over from relays of other kinds, each time when slots were gained."""

    def __init__(
        self, kind: RelayKind, *, marks: RelayMarks, keeper: LeaseKeeper, observer: Observer, keep: bool = False
    ) -> None:
        """Take over for a relay of ``kind`` that works on the slots of ``keeper``, and may ``keep`` what it removes."""
        self._kind = kind
        self._marks = marks
        self._keeper = keeper
        self._observer = observer
        self._keep = keep
        self._done_for = frozenset[int]()

    async def take_over(self) -> None:
        """Make sure that the outbox holds nothing that was published, before anything is read from it.

        A log that lacks something is told of before it is forgotten.
        """
        tokens = frozenset(self._keeper.tokens.values())
        if tokens <= self._done_for:
            return
        if (gap := await self._keeper.source.run(self._marks.gap(self._kind))) is not None:
            self._observer.notice(LogGapFound(reason=gap.reason.value, healed=gap.has_table))
        scope = self._keeper.terms.scope
        while await self._keeper.source.run(
            self._marks.clear(scope, sorted(tokens), successor=self._kind, keep=self._keep, limit=AT_A_TIME)
        ):
            await self._keeper.keep()
        self._done_for = tokens
