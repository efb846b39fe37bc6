"""A run: messages of many keys handled in one transaction, written once for both colours of handler.

The run is a generator. It yields what it wants done (a statement, or a handler's invocation) and is told what came of
it; the shells in ``transact`` do the waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias, assert_never, cast

import msgspec

from pillarbox.consumer.context import Context
from pillarbox.consumer.gate import Gate
from pillarbox.consumer.injection import CONTEXTS
from pillarbox.consumer.intake import Intake
from pillarbox.consumer.item import Item
from pillarbox.errors import ConfigurationError, DecodeError, InvalidReturnError, UnknownMessageTypeError
from pillarbox.holding import FailedAttempt, storable
from pillarbox.idempotency import AttemptStore, InboxStore
from pillarbox.message import Message
from pillarbox.observe import Event
from pillarbox.outbox import Outbox, OutboxRecord
from pillarbox.retry import Classification, GiveUp, Retry, RetryLater, RetryNow, Verdict, decide
from pillarbox.transaction import Execute

MAX_ERROR_CHARS = 2_000
PLAIN_VALUES: tuple[type[object], ...] = (str, bytes, int, float, dict, set)
"""What a handler may return by mistake and nobody could receive."""
WHOSE = "something for a batch, and nobody knows which of its messages it follows from; publish through list[Context]"


class Invoke(msgspec.Struct, frozen=True, kw_only=True):
    """The wish to have the handler invoked.

    Attributes:
        payloads: one, or more for a handler of batches.
        contexts: one for each payload.
        is_batch: the handler takes a list of payloads.
    """

    payloads: tuple[object, ...]
    contexts: tuple[Context, ...]
    is_batch: bool = False

    @property
    def payload(self) -> object:
        """What the handler gets first."""
        return list(self.payloads) if self.is_batch else self.payloads[0]

    def asked(self, kind: object) -> object | None:
        """Return what the handler gets for an annotation of ``kind``, if that is about its messages."""
        if kind is Context:
            return self.contexts[0]
        return list(self.contexts) if kind == CONTEXTS else None


class Returned(msgspec.Struct, frozen=True):
    """The handler returned."""

    value: object


class Raised(msgspec.Struct, frozen=True):
    """The handler raised; ``touched`` when it had executed a statement in the run's transaction by then."""

    error: Exception
    touched: bool


Effect: TypeAlias = Execute | Invoke
RunProgram: TypeAlias = Generator[Effect, Any, "RunReport"]


@dataclass(slots=True)
class RunReport:
    """What a run did, item by item; true once its transaction commits.

    Attributes:
        behind: put behind an earlier message of their key that began to wait in this run.
        early: put aside by the gate, until what must come before them has.
        held: put behind a hold that was there before this run.
        notices: what the handlings want told of.
    """

    handled: list[Item] = field(default_factory=list[Item])
    suppressed: list[Item] = field(default_factory=list[Item])
    discarded: list[Item] = field(default_factory=list[Item])
    retried: list[Item] = field(default_factory=list[Item])
    dead: list[Item] = field(default_factory=list[Item])
    behind: list[Item] = field(default_factory=list[Item])
    early: list[Item] = field(default_factory=list[Item])
    held: list[Item] = field(default_factory=list[Item])
    published: int = 0
    notices: list[Event] = field(default_factory=list[Event])


class RunSpoiled(Exception):  # noqa: N818  # not an error of anybody's: the transaction must be done again
    """A handler failed after it had written: the run must be rolled back and divided.

    Attributes:
        item: whose handler it was.
        verdict: what follows for the item; ``None`` when the database asked for the transaction again.
    """

    def __init__(self, item: Item, verdict: Verdict | None) -> None:
        """Name the item."""
        super().__init__(f"message {item.message.id} spoiled its run")
        self.item = item
        self.verdict = verdict


class BatchSpoiled(Exception):  # noqa: N818  # as above
    """A handler failed with several messages in its hands: whose fault it was is found by trying fewer of them."""


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
        gate: which messages must wait for others.
        redact: what the text of a failure goes through before it is stored.
        translate: names a driver's error in the library's words.
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
    inbox: InboxStore
    attempts: AttemptStore
    outbox: Outbox
    gate: Gate
    translate: Callable[[Exception], Exception]
    now: Callable[[], datetime]
    dice: Callable[[], float]


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
        ready = yield from self._ready(items, intake, report)
        in_batches = self.rules.batch is not None and len(items) > 1
        records: list[OutboxRecord] = []
        batch: list[tuple[Item, Invoke]] = []
        waiting = set(stopped)
        for item in ready:
            if item.hold_key in waiting:
                report.behind.append(item)
            elif not self.rules.handles(item.message):
                report.discarded.append(item)
            elif in_batches and item.verdict is None and (wish := self.wish(item)) is not None:
                batch.append((item, wish))
            else:
                records += yield from self._one(item, report)
                if item in report.retried or (item in report.dead and self.rules.blocks_key):
                    waiting.add(item.hold_key)
        records += yield from self._together(batch, report)
        yield from self._forget([*report.retried, *report.dead, *report.behind, *report.early])
        yield from self.close(items, intake, report, records)
        return report

    def _ready(
        self, items: Sequence[Item], intake: Intake, report: RunReport
    ) -> Generator[Execute, Any, Sequence[Item]]:
        """Return what may run, in order; note in ``report`` what is held, was processed, or is early."""
        admitted = yield from intake.admit(items)
        report.held = without(items, admitted)
        fresh = yield from self._fresh([item for item in admitted if self.rules.handles(item.message)])
        new: list[Item] = []
        for item in admitted:
            if not self.rules.handles(item.message):
                new.append(item)
            elif item.message.id in fresh:
                fresh.discard(item.message.id)  # a second copy in the same run is a duplicate
                new.append(item)
            else:
                report.suppressed.append(item)  # before anything else: what was processed need not wait
        ready = yield from self.rules.gate.admit(new)
        report.early = without(new, ready)
        return ready

    def stopped_by(self, report: RunReport) -> frozenset[str]:
        """Return the keys of which nothing more may run now."""
        waiting = [*report.retried, *report.behind, *(report.dead if self.rules.blocks_key else ())]
        return frozenset(item.hold_key for item in waiting)

    def judge(self, item: Item, error: Exception) -> Verdict | None:
        """Count a failed attempt and decide what follows; ``None`` if the failure is not the handler's."""
        translated = self.rules.translate(error)
        failure = self.rules.classification.classify(translated)
        if failure.kind == "conflict":
            return None
        item.error = error
        item.attempts += 1
        item.history = (*item.history, self._failed_attempt(item.attempts, error))
        return decide(self.rules.retry, failure, attempt=item.attempts, dice=self.rules.dice())

    def give_up(self, item: Item, reason: str, error: Exception) -> None:
        """Decide that ``item`` is dead without an attempt of its handler."""
        item.error = error
        item.history = (*item.history, self._failed_attempt(item.attempts, error))
        item.verdict = GiveUp(reason)

    def _fresh(self, items: Sequence[Item]) -> Generator[Execute, Any, set[str]]:
        ids = {item.message.id for item in items}
        if not ids or not self.rules.deduplicates:
            return ids
        return set((yield from self.rules.inbox.record(self.rules.consumer, sorted(ids))))

    def _forget(self, undone: Sequence[Item]) -> Generator[Execute, Any, None]:
        """Take back what ``_fresh`` recorded of messages that were not handled."""
        if undone and self.rules.deduplicates:
            yield from self.rules.inbox.forget(self.rules.consumer, sorted({item.message.id for item in undone}))

    def _one(self, item: Item, report: RunReport) -> Generator[Effect, Any, Sequence[OutboxRecord]]:
        if item.verdict is None:
            context = yield from self._attempt(item)
            if context is not None:
                report.handled.append(item)
                report.notices += context.notices
                return context.records
        self.put_aside(item, report)
        return ()

    def _together(
        self, batch: Sequence[tuple[Item, Invoke]], report: RunReport
    ) -> Generator[Effect, Any, Sequence[OutboxRecord]]:
        """Invoke a handler of batches with at most as many messages as it takes, and again with the rest.

        Raises:
            BatchSpoiled: it failed, which is nobody's attempt yet.
        """
        records: list[OutboxRecord] = []
        largest = self.rules.batch or 1
        for start in range(0, len(batch), largest):
            items, wishes = zip(*batch[start : start + largest], strict=True)
            contexts = tuple(wish.contexts[0] for wish in wishes)
            payloads = tuple(wish.payloads[0] for wish in wishes)
            answer: Returned | Raised = yield Invoke(payloads=payloads, contexts=contexts, is_batch=True)
            if isinstance(answer, Returned):
                answer = self.noted(contexts[0], answer)
            if isinstance(answer, Raised):
                raise BatchSpoiled(f"{len(items)} messages spoiled their run") from answer.error
            report.handled += items
            for context in contexts:
                report.notices += context.notices
                records += context.records
        return records

    def put_aside(self, item: Item, report: RunReport) -> None:
        """Note that ``item`` waits for its retry, or is dead."""
        (report.retried if isinstance(item.verdict, RetryLater) else report.dead).append(item)

    def _attempt(self, item: Item) -> Generator[Effect, Any, Context | None]:
        """Invoke the handler until it returns or its immediate attempts are over; ``None`` if the item must wait."""
        while (wish := self.wish(item)) is not None:
            answer: Returned | Raised = yield wish
            if isinstance(answer, Returned):
                answer = self.noted(wish.contexts[0], answer)
            if isinstance(answer, Returned):
                return wish.contexts[0]
            verdict = self.judge(item, answer.error)
            if answer.touched or verdict is None:
                raise RunSpoiled(item, verdict) from answer.error
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
        """Return the next invocation for ``item``; ``None`` if it cannot be decoded and is given up."""
        try:
            payload = self.rules.decode(item.message)
        except (DecodeError, UnknownMessageTypeError) as error:
            self.give_up(item, "undecodable", error)
            return None
        context = Context(
            item.message, consumer=self.rules.consumer, attempt=item.attempts + 1, outbox=self.rules.outbox
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
        except Exception as error:
            return Raised(error, touched=True)
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
            yield from self.rules.outbox.append(records)
        report.published = len(records)
        ended = [*report.handled, *report.discarded]
        yield from self.rules.gate.passed([*ended, *(() if self.rules.blocks_key else report.dead)])
        yield from self.rules.attempts.clear(self.rules.consumer, [item.message.id for item in items])
        yield from intake.accept(items, [*ended, *report.suppressed, *report.early])

    def _failed_attempt(self, attempt: int, error: Exception) -> FailedAttempt:
        return FailedAttempt(
            attempt=attempt,
            at=self.rules.now(),
            error_type=type(error).__qualname__,
            error=storable(self.rules.redact(str(error)))[:MAX_ERROR_CHARS],
        )


def without(items: Sequence[Item], others: Sequence[Item]) -> list[Item]:
    """Return ``items`` that are not among ``others``, in their order."""
    if len(items) == len(others):
        return []
    known = {id(other) for other in others}
    return [item for item in items if id(item) not in known]


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
