"""A run: messages of many keys handled in one transaction, written once for both colours of handler.

The run is a generator. It yields what it wants done (a statement, or a handler's invocation) and is told what came of
it; the shells in ``transact`` do the waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias, assert_never, cast

from pillarbox.consumer.context import Context
from pillarbox.consumer.dependency import NOTHING, Needs
from pillarbox.consumer.effects import BatchSpoiled, Effect, Invoke, Raised, Returned, RunSpoiled
from pillarbox.consumer.gate import Gate
from pillarbox.consumer.guard import UNGUARDED, Guard
from pillarbox.consumer.intake import Intake
from pillarbox.consumer.item import Item
from pillarbox.consumer.remembering import Marks, Memory
from pillarbox.consumer.report import RunReport, sort_out, without
from pillarbox.consumer.stray import failure_of
from pillarbox.errors import (
    ConfigurationError,
    DecodeError,
    InvalidMessageError,
    InvalidReturnError,
    MissingBusinessKeyError,
    UnknownMessageTypeError,
)
from pillarbox.idempotency import AttemptStore, InboxStore
from pillarbox.idempotency.outside_calls import OutsideCalls
from pillarbox.message import Message
from pillarbox.outbox import Outbox, OutboxRecord
from pillarbox.retry import Classification, GiveUp, Retry, RetryLater, RetryNow, Verdict, decide
from pillarbox.retry.policy import delayed
from pillarbox.transaction import Execute

PLAIN_VALUES: tuple[type[object], ...] = (str, bytes, int, float, dict, set)
"""What a handler may return by mistake and nobody could receive."""
LOOK_AGAIN = timedelta(milliseconds=250)
"""When a message is looked at again that relies on one which was not handled; its gate knows more by then."""
WHOSE = "something for a batch, and nobody knows which of its messages it follows from; publish through list[Context]"

RunProgram: TypeAlias = Generator[Effect, Any, "RunReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRules:
    """How one consumer's runs go.

    Attributes:
        consumer: its durable identity.
        handles: tells whether it has a handler for a message's type.
        decode: turns a message into the payload of its handler.
        deduplicates: whether processed ids are recorded in the inbox.
        batch: how many messages its handler takes at once; ``None`` for a handler of single messages.
        blocks_key: whether a dead message holds its key.
        stops: whether a dead message stops the consumer.
        gate: which messages must wait for others.
        guard: which messages are through without their handler.
        business_row: returns the inbox row that stands for a message's business key; ``None`` where there are no such.
        redact: what the text of a failure goes through before it is stored.
        translate: names a driver's error in the library's words.
        needs: what its handler calls.
        calls: calls to the outside; ``None`` where handlers have a transaction.
        package: the top-level package of its handler.
    """

    consumer: str
    handles: Callable[[Message], bool]
    decode: Callable[[Message], object]
    retry: Retry
    classification: Classification
    redact: Callable[[str], str]
    deduplicates: bool
    batch: int | None
    blocks_key: bool
    stops: bool
    inbox: InboxStore
    attempts: AttemptStore
    outbox: Outbox
    gate: Gate
    translate: Callable[[Exception], Exception]
    now: Callable[[], datetime]
    dice: Callable[[], float]
    needs: Needs = NOTHING
    calls: OutsideCalls | None = None
    business_row: Callable[[Message], str] | None = None
    guard: Guard = UNGUARDED
    package: str = ""


class Run:
    """The course of one consumer's runs."""

    def __init__(self, rules: RunRules) -> None:
        """Follow ``rules``."""
        self.rules = rules

    def program(self, items: Sequence[Item], *, intake: Intake, stopped: frozenset[str]) -> RunProgram:
        """Handle ``items`` in order; keys in ``stopped`` have an earlier message that waits.

        Raises:
            RunSpoiled: roll back, then run again as its verdict says.
        """
        report = RunReport()
        ready, memory = yield from self._ready(items, intake, report)
        records = yield from self._course(ready, memory, report, waiting=set(stopped), is_alone=len(items) == 1)
        yield from self._forget(memory)
        yield from self.close(items, intake, report, records)
        return report

    def _ready(
        self, items: Sequence[Item], intake: Intake, report: RunReport
    ) -> Generator[Execute, Any, tuple[Sequence[Item], Memory]]:
        """Return what may run, in order; note in ``report`` what is held, was processed, is early, or goes back."""
        admitted = yield from intake.admit(items)
        sort_out(without(items, admitted), report, waiting=report.held)
        memory = yield from self._remember([item for item in admitted if self.rules.handles(item.message)])
        new: list[Item] = []
        processed: list[Item] = []
        met = set[str]()
        for item in admitted:
            if not self.rules.handles(item.message):
                new.append(item)
            elif item.message.id in met:  # a second copy in the same run is a duplicate
                report.suppressed.append(item)
            elif memory.is_new(item.marks):
                met.add(item.message.id)
                new.append(item)
            else:  # before anything else: what was processed need not wait, nor be forgotten
                memory.suppress(item.marks)
                report.suppressed.append(item)
                processed.append(item)
        ready = yield from self.rules.gate.admit(new, processed=processed)
        sort_out(without(new, ready), report, waiting=report.early)
        yield from self.rules.guard.look(ready)
        return ready, memory

    def _course(
        self, ready: Sequence[Item], memory: Memory, report: RunReport, *, waiting: set[str], is_alone: bool
    ) -> Generator[Effect, Any, Sequence[OutboxRecord]]:
        """Handle what is ready, in order; return what is to be published."""
        records: list[OutboxRecord] = []
        batch: list[tuple[Item, Invoke]] = []
        for item in ready:
            is_handled = self.rules.handles(item.message)
            if is_handled and not memory.is_new(item.marks):  # an earlier one of this run means the same
                memory.suppress(item.marks)
                report.suppressed.append(item)
            elif self._must_wait(item, report, waiting):
                continue
            elif not is_handled and not item.is_put_off:
                report.discarded.append(item)
            elif item.is_through:
                memory.keep(item.marks)
                report.handled.append(item)
            elif self.rules.batch and not is_alone and item.verdict is None and (wish := self.wish(item)) is not None:
                memory.keep(item.marks)  # if the batch fails, all of this is rolled back
                batch.append((item, wish))
            else:
                memory.meet(item.marks)
                records += yield from self._one(item, memory, report)
                if self.rules.stops and isinstance(item.verdict, GiveUp) and not is_alone:
                    raise RunSpoiled(item, item.verdict)
                if item.verdict is not None and (isinstance(item.verdict, RetryLater) or self.blocks(item)):
                    waiting.add(item.hold_key)
        return [*records, *(yield from self._together(batch, memory, report))]

    def blocks(self, item: Item) -> bool:
        """Tell whether ``item`` holds its key when it is dead."""
        return self.rules.blocks_key and item.blocks

    def _must_wait(self, item: Item, report: RunReport, waiting: set[str]) -> bool:
        """Tell whether ``item`` may not run now, and note it, since something before it did not or its need is down."""
        if item.hold_key in waiting:
            report.behind.append(item)
        elif self._is_left(item, report):
            item.verdict = None  # it comes again, and nothing has been decided then
            report.left.append(item)
        elif item.relies_on and self._fails(item, report):
            item.verdict, item.awaits = RetryLater(LOOK_AGAIN), tuple(sorted(item.relies_on))
            report.retried.append(item)
            waiting.add(item.hold_key)
        else:
            return False
        return True

    def _is_left(self, item: Item, report: RunReport) -> bool:
        """Tell whether ``item`` goes back: nothing of a key may overtake what was left, nor be held before it."""
        if any(one.hold_key == item.hold_key for one in report.left):
            return True
        is_called = item.verdict is None and not item.is_through and self.rules.handles(item.message)
        return is_called and (bool(report.left) or self.is_shut(item))

    def _fails(self, item: Item, report: RunReport) -> bool:
        """Tell whether something that ``item`` relies on was not handled in this run."""
        undone = {one.message.id for one in (*report.retried, *report.dead, *report.behind)}
        return not item.relies_on.isdisjoint(undone)

    def stopped_by(self, report: RunReport) -> frozenset[str]:
        """Return the keys of which nothing more may run now."""
        waiting = [*report.retried, *report.behind, *(item for item in report.dead if self.blocks(item))]
        return frozenset(item.hold_key for item in waiting)

    def judge(self, item: Item, error: Exception) -> Verdict | None:
        """Count a failed attempt and decide what follows; ``None`` if the failure is not the handler's."""
        translated = self.rules.translate(error)
        failure = self.rules.classification.classify(translated, now=self.rules.now())
        if item.is_repeated(is_conflict=failure.kind == "conflict"):
            return None
        item.error = error
        is_last = item.attempts + 1 >= self.rules.retry.attempts
        wait = self.rules.needs.failed(failure, translated, is_last=is_last, probe=item.probe)
        if wait is not None:
            return RetryLater(wait)
        item.attempts += 1
        item.failed(error, at=self.rules.now(), redact=self.rules.redact)
        verdict = decide(self.rules.retry, failure, attempt=item.attempts, dice=self.rules.dice())
        if isinstance(verdict, RetryNow) and not self.rules.needs.may_retry():
            return delayed(self.rules.retry, dice=self.rules.dice())
        return verdict

    def _note_failure(self, error: Exception) -> None:
        """Count a failure that is nobody's attempt, a batch's, against what it needs."""
        translated, rules = self.rules.translate(error), self.rules
        failure = rules.classification.classify(translated, now=rules.now())
        rules.needs.failed(failure, translated, is_last=False, probe=None)

    def is_shut(self, item: Item) -> bool:
        """Tell whether the handler may not be called for ``item`` now, since what it needs is down."""
        return item.probe is None and self.rules.needs.is_shut

    def marks_of(self, item: Item) -> Marks:
        """Return the inbox rows that stand for ``item``; one whose business key is missing will be given up.

        What is given up already is not asked for its key, by which it may have ended the process.
        """
        if not item.marks:
            item.marks = (item.message.id,)
            if self.rules.business_row is not None and item.verdict is None:
                with suppress(DecodeError, UnknownMessageTypeError, MissingBusinessKeyError):
                    item.marks = (item.message.id, self.rules.business_row(item.message))
        return item.marks

    def _remember(self, items: Sequence[Item]) -> Generator[Execute, Any, Memory]:
        """Record all that ``items`` are known by, as if every one of them were handled."""
        marks = sorted({mark for item in items for mark in self.marks_of(item)})
        if not marks or not self.rules.deduplicates:
            return Memory(frozenset(marks))
        return Memory(frozenset((yield from self.rules.inbox.record(self.rules.consumer, marks))))

    def _forget(self, memory: Memory) -> Generator[Execute, Any, None]:
        """Take back what was recorded of messages that were not handled."""
        if self.rules.deduplicates and (needless := memory.needless):
            yield from self.rules.inbox.forget(self.rules.consumer, needless)

    def _one(self, item: Item, memory: Memory, report: RunReport) -> Generator[Effect, Any, Sequence[OutboxRecord]]:
        if item.verdict is None:
            context = yield from self._attempt(item, report)
            if context is not None:
                memory.keep(item.marks)
                report.handled.append(item)
                report.notices += context.notices
                return context.records
        self.put_aside(item, report)
        return ()

    def _together(
        self, batch: Sequence[tuple[Item, Invoke]], memory: Memory, report: RunReport
    ) -> Generator[Effect, Any, Sequence[OutboxRecord]]:
        """Invoke a handler of batches with at most as many messages as it takes, and again with the rest.

        Raises:
            BatchSpoiled: it failed, which is nobody's attempt yet.
        """
        records: list[OutboxRecord] = []
        largest = self.rules.batch or 1
        for start in range(0, len(batch), largest):
            items, wishes = zip(*batch[start : start + largest], strict=True)
            if report.left or self.rules.needs.is_shut:
                report.leave(items)
                memory.lose(mark for item in items for mark in item.marks)
                continue
            contexts = tuple(wish.contexts[0] for wish in wishes)
            payloads = tuple(wish.payloads[0] for wish in wishes)
            answer: Returned | Raised = yield Invoke(payloads=payloads, contexts=contexts, is_batch=True)
            if isinstance(answer, Returned):
                answer = self.noted(contexts[0], answer)
            if isinstance(answer, Raised):
                self._note_failure(answer.error)
                raise BatchSpoiled(f"{len(items)} messages spoiled their run") from answer.error
            self.rules.needs.succeeded(None)
            report.handled += items
            for context in contexts:
                report.notices += context.notices
                records += context.records
        return records

    def put_aside(self, item: Item, report: RunReport) -> None:
        """Note that ``item`` waits for its retry, or is dead."""
        (report.retried if isinstance(item.verdict, RetryLater) else report.dead).append(item)

    def _attempt(self, item: Item, report: RunReport) -> Generator[Effect, Any, Context | None]:
        """Invoke the handler until it returns or its immediate attempts are over; ``None`` if the item must wait."""
        while (wish := self.wish(item)) is not None:
            answer: Returned | Raised = yield wish
            if isinstance(answer, Returned):
                answer = self.noted(wish.contexts[0], answer)
            if isinstance(answer, Returned):
                self.rules.needs.succeeded(item.probe)
                return wish.contexts[0]
            verdict = None if answer.inherited else self.judge(item, answer.error)
            if answer.touched or verdict is None:
                raise RunSpoiled(item, verdict, handled=len(report.handled)) from answer.error
            match verdict:
                case RetryNow():
                    continue
                case RetryLater() | GiveUp():
                    item.verdict = verdict
                    return None
                case _:
                    assert_never(verdict)
        return None

    def wish(self, item: Item) -> Invoke | None:
        """Return the next invocation for ``item``; ``None`` if it cannot be decoded or compared, and is given up."""
        try:
            payload = self.rules.decode(item.message)
            if self.rules.business_row is not None and len(self.marks_of(item)) == 1:
                self.rules.business_row(item.message)  # raises what is wrong with it
        except (DecodeError, UnknownMessageTypeError, MissingBusinessKeyError) as error:
            reason = "no-business-key" if isinstance(error, MissingBusinessKeyError) else "undecodable"
            item.give_up(reason, error, at=self.rules.now(), redact=self.rules.redact)
            return None
        context = Context(
            item.message,
            consumer=self.rules.consumer,
            attempt=item.attempts + 1,
            outbox=self.rules.outbox,
            calls=self.rules.calls,
        )
        return Invoke(payloads=(payload,), contexts=(context,), is_batch=self.rules.batch is not None)

    def noted(self, context: Context, answer: Returned) -> Returned | Raised:
        """Publish what the handler returned; a value that is no message fails the attempt for good."""
        try:
            if self.rules.batch is not None and answer.value is not None:
                raise InvalidReturnError(consumer=self.rules.consumer, returned=WHOSE)
            for payload in _flat(answer.value, consumer=self.rules.consumer):
                context.note(payload)
        except ConfigurationError as error:  # no message, or one without its key: it will not be better next time
            returned = f"what cannot be published ({error})"
            return Raised(InvalidReturnError(consumer=self.rules.consumer, returned=returned), touched=True)
        except (Exception, asyncio.CancelledError) as caught:
            return Raised(failure_of(caught), touched=True)
        return answer

    def close(
        self, items: Sequence[Item], intake: Intake, report: RunReport, records: Sequence[OutboxRecord]
    ) -> Generator[Execute, Any, None]:
        """Write what becomes of ``items`` and what was published; the last part of a run's transaction."""
        if report.retried:
            yield from intake.retry_later(report.retried)
        if report.dead:
            yield from intake.bury(report.dead)
        if report.behind:
            yield from intake.put_behind(report.behind)
        if records:
            try:
                yield from self.rules.outbox.append(records)
            except InvalidMessageError as error:  # only the database knew how much it takes
                if (item := report.publisher_of(error, records)) is None or self.rules.batch is not None:
                    raise
                raise RunSpoiled(item, self.judge(item, error), handled=report.handled.index(item)) from error
        yield from self.rules.guard.done(report.handled, records)
        report.published = len(records)
        ended = [*report.handled, *report.discarded]
        yield from self.rules.attempts.clear(self.rules.consumer, [item.message.id for item in items])
        report.keep_copies_together()
        yield from intake.accept(report.taken(items), [*ended, *report.suppressed, *report.early])
        # last: what is early has left its hold by now, and may be put there again
        yield from self.rules.gate.passed([*ended, *(item for item in report.dead if not self.blocks(item))])


def _flat(value: object, *, consumer: str) -> Generator[object, None, None]:
    """Return the messages in what a handler returned; tuples and lists flatten."""
    if value is None:
        return
    if isinstance(value, (tuple, list)):
        for part in cast("Sequence[object]", value):
            yield from _flat(part, consumer=consumer)
    elif isinstance(value, PLAIN_VALUES):
        raise InvalidReturnError(consumer=consumer, returned=type(value).__qualname__)
    else:
        yield value
