"""Looks after the gaps of a consumer that goes by numbers: tells of them, and does what its policy says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from pillarbox.consumer.by_sequence import AT_ONCE, release_followers
from pillarbox.consumer.positions import EarlyMessage, Gap, Gaps, Positions, SkippedNumbers, SkippedStore, rest_of_epoch
from pillarbox.consumer.surroundings import Surroundings
from pillarbox.errors import TransientError
from pillarbox.holding import hold_key_of
from pillarbox.message import Message, Number, number_of
from pillarbox.observe import Event, GapFetched, GapFound, GapSkipped, LineBegun
from pillarbox.ordering import BySequence, Kept, Missing, Position
from pillarbox.ordering.sequence import UNBEGUN
from pillarbox.outbox.record import Line
from pillarbox.rounds import Rounds
from pillarbox.transaction import Program, TransactionSource

LINES_AT_ONCE = 100
SHORTEST_PAUSE, LONGEST_PAUSE = timedelta(milliseconds=100), timedelta(seconds=2)
FETCH_WITHIN = timedelta(seconds=30)
"""How long whoever keeps messages may take to answer; other gaps wait for it."""
LINE_BEGINS = "the consumer begins here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """The ports through which gaps are closed."""

    positions: Positions
    gaps: Gaps
    skipped: SkippedStore

    def skip(self, gap: Gap, *, by: str, because: str) -> Program[int]:
        """Go on behind what is missing, in the transaction that has locked the line; return how many messages do."""
        missing = gap.missing
        if missing is None:
            return 0
        skipped = [SkippedNumbers(line=gap.line, first=missing.first, last=missing.last, by=by, because=because)]
        if missing.first.epoch != gap.position.epoch:
            skipped.append(rest_of_epoch(gap.line, gap.position))
        yield from self.skipped.skip(gap.consumer, skipped)
        moved = {gap.line: Position(epoch=missing.first.epoch, last=missing.last)}
        yield from self.positions.move(gap.consumer, moved)
        return (yield from self.positions.release(gap.consumer, moved, limit=AT_ONCE))

    def pass_over(self, consumer: str, message: Message, by: str) -> Program[None]:
        """Go on behind a message that was given up, if the consumer goes by numbers and it is the next one."""
        number = number_of(message)
        if number is None or message.key is None:
            return
        line = (message.destination, message.key)
        position = yield from self.positions.lock_known(consumer, line)
        if position is None or number != position.next:
            return
        because = "its dead letter was given up, or lets the others pass"
        passed = SkippedNumbers(line=line, first=number, last=number.number, by=by, because=because)
        yield from self.skipped.skip(consumer, [passed])
        moved = {line: replace(position, last=number.number)}
        yield from self.positions.move(consumer, moved)
        yield from release_followers(consumer, self.positions, moved)

    def insert(self, consumer: str, line: Line, messages: Sequence[Message]) -> Program[int]:
        """Put fetched messages of a line where early ones wait, and let go on what can; return how many were new."""
        numbered = [(number, one) for one in messages if (number := number_of(one)) is not None]
        if not numbered:
            return 0
        epoch = min(number.epoch for number, _ in numbered)
        positions = yield from self.positions.lock(consumer, {line: epoch})
        found = [
            EarlyMessage(number=number, hold_key=hold_key_of(one, ordered=True), message=one)
            for number, one in numbered
            if number >= positions[line].next
        ]
        yield from self.positions.put_early(consumer, found)
        yield from release_followers(consumer, self.positions, positions)
        return len(found)


async def fetch_missing(
    kept: Kept, gap: Gap, missing: Missing, *, lines: Lines, source: TransactionSource, limit: int
) -> int:
    """Ask ``kept`` for what is missing, at most ``limit`` messages; return how many were found.

    Raises:
        TransientError: it did not answer.
    """
    found, first = 0, missing.first
    while found < limit and first.number <= missing.last:
        try:
            async with asyncio.timeout(FETCH_WITHIN.total_seconds()):
                messages = await kept.fetch(*gap.line, first=first, last=missing.last)
        except TimeoutError as error:
            whose = f"{gap.consumer}: whoever keeps the messages of {gap.line[0]}"
            raise TransientError(f"{whose} did not answer within {FETCH_WITHIN.total_seconds():g} s") from error
        numbers = [number.number for one in messages if (number := number_of(one)) is not None]
        if not numbers:
            break
        found += await source.run(lines.insert(gap.consumer, gap.line, messages))
        first = Number(first.epoch, max(numbers) + 1)
    return found


@dataclass(slots=True)
class _Decision:
    """What was done about a gap in a transaction, and what is to be done when it is committed."""

    events: list[Event] = field(default_factory=list[Event])
    fetch: Missing | None = None


class GapWatch(Rounds):
    """Looks after the gaps of one consumer; it may run in many processes at once."""

    def __init__(
        self, consumer: str, *, lines: Lines, rule: BySequence, kept: Kept | None, around: Surroundings
    ) -> None:
        """Do for ``consumer`` what ``rule`` says; ``kept`` is asked where it says ``fetch``."""
        every = min(max(rule.gap.wait / 4, SHORTEST_PAUSE), LONGEST_PAUSE)
        super().__init__(f"{consumer} (gaps)", every=every, clock=around.clock, observer=around.observer)
        self._consumer = consumer
        self._lines = lines
        self._rule = rule
        self._kept = kept
        self._source = around.source

    async def round(self) -> int:
        """Attend to every line that something is to be done about; return how many there were."""
        policy = self._rule.gap
        due = self._lines.gaps.due(self._consumer, wait=policy.wait, full_at=policy.max_buffered, limit=LINES_AT_ONCE)
        found = await self._source.run(due)
        for gap in found:
            decision = await self._source.run(self._attend(gap.line))
            for event in decision.events:
                self._observer.notice(event)
            if decision.fetch is not None:
                await self._fetch(gap, decision.fetch)
        return len(found)

    def _attend(self, line: Line) -> Program[_Decision]:
        """Look again under the lock of the line, then do what is to be done."""
        decision = _Decision()
        lines, rule = self._lines, self._rule
        gap = yield from lines.gaps.look(self._consumer, line)
        if gap is None or gap.held:
            return decision
        missing = gap.missing
        if missing is None:
            yield from lines.positions.release(self._consumer, {line: gap.position}, limit=AT_ONCE)
        elif not (gap.stalled_for >= rule.gap.wait or gap.buffered >= rule.gap.max_buffered):
            pass  # it moved on between the two looks
        elif gap.position.last == UNBEGUN and not gap.position.is_busy and rule.start == "next":
            yield from lines.skip(gap, by="pillarbox", because=LINE_BEGINS)
            decision.events.append(LineBegun(consumer=self._consumer, channel=line[0], first=gap.waiting.number))
        else:
            if gap.told_for is None:
                decision.events.append(_found(gap, missing))
            yield from self._close(gap, missing, decision)
        return decision

    def _close(self, gap: Gap, missing: Missing, decision: _Decision) -> Program[None]:
        policy = self._rule.gap
        if policy.then == "skip" and not gap.position.is_busy:
            because = f"it did not come within {policy.wait}"
            yield from self._lines.skip(gap, by="pillarbox", because=because)
            decision.events.append(_skipped(gap, missing, by="pillarbox", because=because))
            return
        yield from self._lines.gaps.tell(self._consumer, gap.line)
        if policy.then == "fetch" and not gap.position.is_busy:
            decision.fetch = missing

    async def _fetch(self, gap: Gap, missing: Missing) -> None:
        """Fetch with no transaction open; what is not kept any more leaves the gap as it is."""
        if self._kept is None:
            return
        limit = self._rule.gap.max_buffered
        found = await fetch_missing(self._kept, gap, missing, lines=self._lines, source=self._source, limit=limit)
        self._observer.notice(
            GapFetched(
                consumer=self._consumer,
                channel=gap.line[0],
                first=missing.first.number,
                last=missing.last,
                found=found,
            )
        )


def _found(gap: Gap, missing: Missing) -> GapFound:
    return GapFound(
        consumer=gap.consumer,
        channel=gap.line[0],
        first=missing.first.number,
        last=missing.last,
        buffered=gap.buffered,
        stalled_for=gap.stalled_for,
    )


def _skipped(gap: Gap, missing: Missing, *, by: str, because: str) -> GapSkipped:
    return GapSkipped(
        consumer=gap.consumer,
        channel=gap.line[0],
        first=missing.first.number,
        last=missing.last,
        by=by,
        because=because,
    )
