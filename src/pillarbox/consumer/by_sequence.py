"""The gate of consumers that go by numbers: n + 1 runs after n, and what comes early waits in the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from pillarbox.consumer.gate import Gate
from pillarbox.consumer.item import Item
from pillarbox.consumer.positions import EarlyMessage, Positions, SkippedStore, rest_of_epoch
from pillarbox.deadletter.redaction import nothing_redacted
from pillarbox.errors import SequenceError
from pillarbox.holding import HeldState
from pillarbox.message import Number, number_of
from pillarbox.ordering import BySequence
from pillarbox.ordering.sequence import UNBEGUN, Position, Sorted, advanced, count_released, sort_line
from pillarbox.outbox.record import Line
from pillarbox.serialization import UNREADABLE
from pillarbox.transaction import Program

AT_ONCE = 500
"""So many early messages of a line are let go on at once; the others follow when these are through."""
ByLine = dict[Line, list[tuple[Number, Item]]]


class SequenceGate(Gate):
    """Keeps the order of numbers in each line, which is a destination with one of its keys.

    EIP: *Resequencer*.
    """

    def __init__(
        self,
        consumer: str,
        *,
        rule: BySequence,
        positions: Positions,
        skipped: SkippedStore,
        is_handled: Callable[[Item], bool],
        marks_admitted: bool,
        now: Callable[[], datetime],
    ) -> None:
        """Guard the runs of ``consumer``.

        Args:
            consumer: its identity.
            rule: where a line begins, and how many of its messages may wait early.
            positions: how far it has come.
            skipped: what it went on without.
            is_handled: tells whether there is a handler for an item: what has none only counts.
            marks_admitted: what is admitted is handled after this transaction, which others must be able to see.
            now: the present instant.
        """
        self._consumer = consumer
        self._positions = positions
        self._skipped = skipped
        self._begins_at_first = rule.start == "first"
        self._max_buffered = rule.gap.max_buffered
        self._is_handled = is_handled
        self._marks_admitted = marks_admitted
        self._now = now

    def admit(self, items: Sequence[Item], *, processed: Sequence[Item]) -> Program[Sequence[Item]]:
        """Let each line go on from its position, by number; put what is early aside before it is accepted.

        What was processed in another order, or before the consumer went by numbers, is not waited for.
        """
        lines, ready = _by_line(items)
        for item in ready:
            self._refuse_unnumbered(item)
        known = {line: [number for number, _ in found] for line, found in _by_line(processed)[0].items()}
        if not lines and not known:
            return ready
        sorted_lines = yield from self._sort(lines, known)
        past = {line: found.past for line, found in sorted_lines.items() if found.past}
        if past:
            yield from self._judge_past(past)
        for found in sorted_lines.values():
            behind = [item for item in found.past if _number(item) < found.position.next]
            twice = [item for item in found.past if not _number(item) < found.position.next]
            ready += [*behind, *found.ready, *twice]
        yield from self._put_early({line: found for line, found in sorted_lines.items() if found.early})
        for line, found in sorted_lines.items():
            for _, item in lines[line]:
                item.line = found.position
        return ready

    def passed(self, items: Sequence[Item]) -> Program[None]:
        """Move the positions on, and let go on what has waited for that."""
        numbers: dict[Line, list[Number]] = {}
        positions: dict[Line, Position] = {}
        for item in items:
            line, number = _line_of(item), number_of(item.message)
            if line is not None and number is not None and item.line is not None:
                numbers.setdefault(line, []).append(number)
                positions[line] = item.line
        if numbers and self._marks_admitted:  # what was known when they were admitted was another transaction's
            epochs = {line: min(given).epoch for line, given in numbers.items()}
            positions = dict((yield from self._positions.lock(self._consumer, epochs)))
        moved = {line: advanced(position, numbers[line]) for line, position in positions.items()}
        changed = {line: position for line, position in moved.items() if position != positions[line]}
        if changed:
            yield from self._positions.move(self._consumer, changed)
            waiting = {line: position for line, position in changed.items() if position.buffered}
            yield from release_followers(self._consumer, self._positions, waiting)

    def _sort(self, lines: ByLine, known: Mapping[Line, Sequence[Number]]) -> Program[Mapping[Line, Sorted[Item]]]:
        """Sort what arrived in each line, behind the numbers that are ``known`` to be processed."""
        epochs = {line: sorted({number.epoch for number, _ in arrivals}) for line, arrivals in lines.items()}
        begun = {line: min(numbers).epoch for line, numbers in known.items()} | {
            line: found[0] for line, found in epochs.items()
        }
        positions = yield from self._positions.lock(self._consumer, begun)
        behind = {line: self._behind(position, known.get(line, ())) for line, position in positions.items()}
        later = [line for line, found in epochs.items() if found[-1] > behind[line].epoch]
        waiting = yield from self._positions.first_early(self._consumer, later)
        found = {
            line: _sort_with_replays(behind[line], arrivals, waiting.get(line)) for line, arrivals in lines.items()
        }
        changed = {**behind, **{line: self._marked(one) for line, one in found.items()}}
        changed = {line: position for line, position in changed.items() if position != positions[line]}
        if changed:
            yield from self._positions.move(self._consumer, changed)
        if moved := {line: one for line, one in behind.items() if one != positions[line] and one.buffered}:
            yield from release_followers(self._consumer, self._positions, moved)
        ended = [(line, one.ends_epoch) for line, one in found.items() if one.ends_epoch is not None]
        if ended:
            yield from self._skipped.skip(self._consumer, [rest_of_epoch(*end) for end in ended])
        return found

    def _behind(self, position: Position, known: Sequence[Number]) -> Position:
        """Return the position behind numbers that were processed; where the line has yet to begin they begin none."""
        is_open = position.last == UNBEGUN and not self._begins_at_first
        return position if is_open else advanced(position, known)

    def _marked(self, found: Sorted[Item]) -> Position:
        """Return the position to be written before anything is handled."""
        if not self._marks_admitted:
            return found.position
        numbers = [_number(item) for item in found.ready if item.state is not HeldState.REPLAYING]
        admitted = [number.number for number in numbers if number.epoch == found.position.epoch]
        return replace(found.position, admitted=max([found.position.admitted, *admitted]))

    def _put_early(self, lines: Mapping[Line, Sorted[Item]]) -> Program[None]:
        """Put aside what comes from holding, and as much of what comes from a channel as there is room for."""
        kept: list[EarlyMessage] = []
        for found in lines.values():
            room = self._max_buffered - found.position.buffered
            for item in found.early:
                if item.delivery is not None and room <= 0:
                    item.returned = True
                    continue
                room -= item.delivery is not None
                kept.append(_early(item))
            found.position = replace(found.position, buffered=found.position.buffered + len(found.early))
        if kept:
            yield from self._positions.put_early(self._consumer, kept)

    def _judge_past(self, past: Mapping[Line, Sequence[Item]]) -> Program[None]:
        """Give up what is late, or bears a number that another message had; what has no handler needs none."""
        skipped = yield from self._skipped.skipped(self._consumer, past)
        for line, items in past.items():
            for item in items:
                number = _number(item)
                if item.verdict is not None or not self._is_handled(item):
                    continue
                if any(one.line == line and one.includes(number) for one in skipped):
                    item.blocks = False  # what comes after it was handled long ago
                    why = "it was skipped before it came, and later ones were handled"
                    self._give_up(item, "late", SequenceError(number=number.number, reason=why))
                else:
                    why = "another message of its key had that number; was the producer restored from a backup?"
                    self._give_up(item, "reused-number", SequenceError(number=number.number, reason=why))

    def _refuse_unnumbered(self, item: Item) -> None:
        is_exempt = item.state is HeldState.REPLAYING or item.message.type == UNREADABLE or not self._is_handled(item)
        if item.verdict is None and not is_exempt:
            why = "it bears no number or no key; declare its type with numbered=True, or handle it without BySequence()"
            self._give_up(item, "unnumbered", SequenceError(number=None, reason=why))

    def _give_up(self, item: Item, reason: str, error: SequenceError) -> None:
        item.give_up(reason, error, at=self._now(), redact=nothing_redacted)  # it says numbers and words of ours only


def release_followers(consumer: str, positions: Positions, moved: Mapping[Line, Position]) -> Program[int]:
    """Let go on what has waited for lines to come to ``moved``; return how many messages that were."""
    waiting = yield from positions.first_early(consumer, moved)
    following = {line: moved[line] for line, first in waiting.items() if count_released(moved[line], [first])}
    return (yield from positions.release(consumer, following, limit=AT_ONCE)) if following else 0


def _sort_with_replays(
    position: Position, arrivals: Sequence[tuple[Number, Item]], waiting: Number | None
) -> Sorted[Item]:
    """Sort a line; what is replayed is not asked for its number, and goes first."""
    replayed = [arrival for arrival in arrivals if arrival[1].state is HeldState.REPLAYING]
    others = [arrival for arrival in arrivals if arrival[1].state is not HeldState.REPLAYING]
    behind = advanced(position, (number for number, _ in replayed))
    found = sort_line(behind, others, waiting=waiting) if others else Sorted[Item](position)
    if found.position == behind:
        found.position = position  # it moves on when the replayed ones are handled
    found.ready = [*(item for _, item in replayed), *found.ready]
    return found


def _by_line(items: Sequence[Item]) -> tuple[ByLine, list[Item]]:
    """Return the numbered ones of ``items`` by their lines, and the others."""
    lines: ByLine = {}
    others: list[Item] = []
    for item in items:
        line, number = _line_of(item), number_of(item.message)
        if line is not None and number is not None:
            lines.setdefault(line, []).append((number, item))
        else:
            others.append(item)
    return lines, others


def _line_of(item: Item) -> Line | None:
    key = item.message.key
    return None if key is None else (item.message.destination, key)


def _number(item: Item) -> Number:
    number = number_of(item.message)
    assert number is not None, "what is sorted has a number"
    return number


def _early(item: Item) -> EarlyMessage:
    return EarlyMessage(
        number=_number(item),
        hold_key=item.hold_key,
        message=item.message,
        attempts=item.attempts,
        history=item.history,
    )
