"""Numbers in a line: which may be handled next, which came early, which are past. Pure decisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from pillarbox.message import Number

T = TypeVar("T")

UNBEGUN = -1
"""The last number of a line of which nothing was handled yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a consumer has come in one line.

    Attributes:
        epoch: the epoch whose numbers it follows.
        last: the last number that nothing has to wait for any more; ``UNBEGUN`` for a line that is new.
        admitted: the last number that a handler without a transaction may be busy with.
        buffered: how many messages wait early.
    """

    epoch: int
    last: int = UNBEGUN
    admitted: int = 0
    buffered: int = 0

    @property
    def next(self) -> Number:
        """The number that is to come."""
        return Number(self.epoch, max(self.last, 0) + 1)

    @property
    def is_busy(self) -> bool:
        """Whether a handler may be at work beyond ``last``."""
        return self.admitted > max(self.last, 0)


@dataclass(slots=True)
class Sorted(Generic[T]):
    """What a line's messages are, seen from a position.

    Attributes:
        position: the same, but for the epoch where a line begins anew.
        ready: those that may be handled, in this order.
        early: those that must wait for others.
        past: those whose number is behind: given a second time, or late.
        ends_epoch: the position whose line was left for a later epoch's, if it was.
    """

    position: Position
    ready: list[T] = field(default_factory=list[T])
    early: list[T] = field(default_factory=list[T])
    past: list[T] = field(default_factory=list[T])
    ends_epoch: Position | None = None


def sort_line(position: Position, arrivals: Sequence[tuple[Number, T]], *, waiting: Number | None = None) -> Sorted[T]:
    """Sort out messages of one line.

    A later epoch begins at 1, once nothing of the earlier one is known to be outstanding.

    Args:
        position: where the line stands.
        arrivals: the messages.
        waiting: the first number that waits early already.
    """
    first = min(number for number, _ in arrivals)
    if position.last == UNBEGUN and not position.is_busy and first.epoch < position.epoch:
        position = replace(position, epoch=first.epoch)
    found = Sorted[T](position)
    following = position.next
    outstanding = waiting.epoch if waiting is not None else None
    for number, one in sorted(arrivals, key=lambda arrival: arrival[0]):
        begins = number.epoch > following.epoch and number.number == 1 and not found.ready and not position.is_busy
        if begins and (outstanding is None or outstanding >= number.epoch):
            found.ends_epoch = position
            found.position = Position(epoch=number.epoch, last=0, buffered=position.buffered)
            following = number
        if number == following:
            found.ready.append(one)
            following = Number(number.epoch, number.number + 1)
        elif number > following:
            found.early.append(one)
            outstanding = number.epoch if outstanding is None else min(outstanding, number.epoch)
        else:
            found.past.append(one)
    return found


def advanced(position: Position, numbers: Iterable[Number]) -> Position:
    """Return where the line stands when ``numbers`` are done with: behind those of them that follow without a gap."""
    last = position
    for number in sorted(numbers):
        if number == last.next:
            last = replace(last, last=number.number)
    return last


def count_released(position: Position, early: Sequence[Number]) -> int:
    """Return how many of ``early``, in their order, may go on: those that follow, and those that are past.

    Of a later epoch the first may, if it is what waits first.
    """
    following = position.next
    count = 0
    for number in early:
        if number.epoch > following.epoch and number.number == 1 and count == 0 and not position.is_busy:
            following = number
        if number > following:
            break
        if number == following:
            following = Number(number.epoch, number.number + 1)
        count += 1
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Numbers that have not come though a later one has.

    Attributes:
        first: the first of them.
        last: the last of them, in the same epoch.
    """

    first: Number
    last: int


def missing_before(position: Position, waiting: Number) -> Missing | None:
    """Return what is missing between ``position`` and the first number that waits; ``None`` if nothing is."""
    first = position.next if waiting.epoch == position.epoch else Number(waiting.epoch, 1)
    return Missing(first=first, last=waiting.number - 1) if first < waiting else None
