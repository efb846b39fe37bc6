"""The ports of numbered lines: how far a consumer has come in each, and what waits in it for an earlier message."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pillarbox.holding import FailedAttempt
from pillarbox.message import Message, Number
from pillarbox.ordering.sequence import UNBEGUN, Missing, Position, missing_before
from pillarbox.outbox.record import Line
from pillarbox.transaction import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyMessage:
    """A message put aside until those before it have been handled.

    Attributes:
        hold_key: what it will be held under when it may go on.
        attempts: how often its handler has been invoked.
        history: its failed attempts, oldest first.
    """

    number: Number
    hold_key: str
    message: Message
    attempts: int = 0
    history: tuple[FailedAttempt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedNumbers:
    """Numbers that a consumer went on without.

    Attributes:
        first: the first of them.
        last: the last of them, in the same epoch.
        by: who decided; why.
    """

    line: Line
    first: Number
    last: int
    by: str
    because: str

    def includes(self, number: Number) -> bool:
        """Tell whether ``number`` is one of them."""
        return self.first <= number <= Number(self.first.epoch, self.last)


class Positions(Protocol):
    """The lines of one consumer as its runs see them; a line is a destination with one of its keys.

    Whoever puts a message aside as early, or lets one go on, has the line's position locked.
    Every implementation must pass ``pillarbox.testing.contracts.PositionsContract``.
    """

    @abstractmethod
    def lock(self, consumer: str, lines: Mapping[Line, int]) -> Program[Mapping[Line, Position]]:
        """Return the positions of ``lines``, locked in sorted order to the transaction's end.

        A line that is new begins in the epoch given with it, with nothing handled.
        """

    @abstractmethod
    def lock_known(self, consumer: str, line: Line) -> Program[Position | None]:
        """Return the position of a line, locked; ``None`` where the consumer goes by no numbers, or has seen none."""

    @abstractmethod
    def move(self, consumer: str, positions: Mapping[Line, Position]) -> Program[None]:
        """Write positions that this transaction has locked, and that the lines move on now."""

    @abstractmethod
    def put_early(self, consumer: str, messages: Sequence[EarlyMessage]) -> Program[None]:
        """Put messages of locked lines aside; one that is there already is left."""

    @abstractmethod
    def first_early(self, consumer: str, lines: Collection[Line]) -> Program[Mapping[Line, Number]]:
        """Return the first number that waits in each of ``lines`` where one does."""

    @abstractmethod
    def release(self, consumer: str, positions: Mapping[Line, Position], *, limit: int) -> Program[int]:
        """Let up to ``limit`` early messages of each line go on that follow its position; return how many did.

        They are put into the holding of their keys, by number, due now; a hold that is there keeps its state.
        """


END_OF_EPOCH = 2**62


def rest_of_epoch(line: Line, position: Position) -> SkippedNumbers:
    """Return what may still come of an epoch that is over: it is late, whatever its number."""
    last = 0 if position.last == UNBEGUN else position.last
    return SkippedNumbers(
        line=line,
        first=Number(position.epoch, last + 1),
        last=END_OF_EPOCH,
        by="pillarbox",
        because="a later epoch has begun",
    )


class SkippedStore(Protocol):
    """The numbers that consumers went on without, so that one of them that comes after all is known to be late.

    Every implementation must pass ``pillarbox.testing.contracts.PositionsContract``.
    """

    @abstractmethod
    def skip(self, consumer: str, skipped: Sequence[SkippedNumbers]) -> Program[None]:
        """Note numbers that ``consumer`` goes on without."""

    @abstractmethod
    def skipped(self, consumer: str, lines: Collection[Line]) -> Program[Sequence[SkippedNumbers]]:
        """Return what was skipped in ``lines``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A line in which something waits for a number that has not come, or could go on and was not let.

    Attributes:
        waiting: the first number that waits.
        buffered: how many messages wait.
        stalled_for: how long nothing of the line has moved on.
        told_for: how long ago it was told of; ``None`` if it was not.
        held: the key is held: what is missing may wait there, and the gap is nobody's concern until that ends.
    """

    consumer: str
    line: Line
    position: Position
    waiting: Number
    buffered: int
    stalled_for: timedelta
    told_for: timedelta | None = None
    held: bool = False

    @property
    def missing(self) -> Missing | None:
        """What is missing; ``None`` if what waits first may go on."""
        return missing_before(self.position, self.waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class GapState:
    """The gaps of all consumers: how many lines, those of held keys left out, and how long the longest has stalled."""

    lines: int
    buffered: int
    oldest_for: timedelta | None


class Gaps(Protocol):
    """The lines that have stalled, as those see them who look after them.

    Every implementation must pass ``pillarbox.testing.contracts.PositionsContract``.
    """

    @abstractmethod
    def find(self, consumer: str | None, *, limit: int) -> Program[Sequence[Gap]]:
        """Return the gaps that have stalled longest, of one consumer or of all; locks nothing."""

    @abstractmethod
    def due(self, consumer: str, *, wait: timedelta, full_at: int, limit: int) -> Program[Sequence[Gap]]:
        """Return lines of keys that are not held and that something is to be done about; locks nothing.

        Those that could go on; those that have stalled for ``wait``, or in which ``full_at`` messages wait, unless that
        was told of within ``wait``. Those that were told of longest ago come last.
        """

    @abstractmethod
    def look(self, consumer: str, line: Line) -> Program[Gap | None]:
        """Lock the position of a line and return its gap; ``None`` if there is none, or somebody is at work there."""

    @abstractmethod
    def tell(self, consumer: str, line: Line) -> Program[None]:
        """Note that the gap is told of now."""

    @abstractmethod
    def state(self) -> Program[GapState]:
        """Count gaps."""
