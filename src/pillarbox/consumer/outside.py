"""Handlers without a transaction: a claim is committed first, the outcome right after the call.

At least once: a process that ends in between leaves the claim in doubt, and the message is handled again with the same
idempotency key. Where running again does no harm nothing is claimed, and outcomes of many calls are written at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pillarbox.consumer.books import Books
from pillarbox.consumer.effects import Invoke, Raised, Returned, RunSpoiled
from pillarbox.consumer.injection import Providers
from pillarbox.consumer.intake import Intake
from pillarbox.consumer.item import Item
from pillarbox.consumer.report import RunReport, sort_out, without
from pillarbox.consumer.run import Run
from pillarbox.consumer.spec import Consumer
from pillarbox.consumer.stopping import StoppedByDeadLetter
from pillarbox.consumer.stray import failure_of, in_thread_of_its_own
from pillarbox.consumer.surroundings import Surroundings
from pillarbox.errors import PillarboxError
from pillarbox.lease import repeated
from pillarbox.outbox import OutboxRecord
from pillarbox.retry import GiveUp, RetryLater, RetryNow
from pillarbox.retry.policy import delayed
from pillarbox.transaction import Program

if TYPE_CHECKING:
    from pillarbox.idempotency import ClaimStore, Suspect
    from pillarbox.ordering import RunSize

LOOK_AGAIN = timedelta(milliseconds=50)
"""How often a claim that somebody else holds is looked at."""
FEW = 10
"""So many are handled before somebody who must be alone in the process gets the room."""
WRITE_EVERY = timedelta(milliseconds=100)
"""For so long outcomes may wait for each other where running again does no harm."""


@dataclass(slots=True)
class Entry:
    """What one transaction found out about messages before their handlers are called.

    Attributes:
        suspects: those that a dead process left behind.
        report: those that need no handler.
        ready: those whose handlers may be called now, and those of other types among them, in order.
        busy: those that somebody else has claimed, or that wait behind such a one.
    """

    suspects: Mapping[str, Suspect]
    report: RunReport = field(default_factory=RunReport)
    ready: list[Item] = field(default_factory=list[Item])
    busy: list[Item] = field(default_factory=list[Item])


@dataclass(slots=True)
class Outcomes:
    """What came of calls and is not yet written.

    Attributes:
        since: when the first of them could have been written.
        has_called: a handler was called, so that something can be lost.
        records: by the message's id, what its handler published.
    """

    since: float
    has_called: bool = False
    report: RunReport = field(default_factory=RunReport)
    records: dict[str, Sequence[OutboxRecord]] = field(default_factory=dict[str, "Sequence[OutboxRecord]"])

    @property
    def items(self) -> list[Item]:
        """All of them."""
        report = self.report
        return [*report.handled, *report.discarded, *report.retried, *report.dead, *report.behind]


class OutsideProcess:
    """Handles messages one at a time: claim, call, outcome."""

    def __init__(
        self,
        run: Run,
        *,
        caller: Caller,
        claims: ClaimStore,
        around: Surroundings,
    ) -> None:
        """Judge by the rules of ``run``; invoke through ``caller``."""
        self._run = run
        self._caller = caller
        self._claims = claims
        self._source = around.source
        self._books = Books(run, around)
        self._clock = around.clock
        self._lease = around.lease
        self._new_token = around.new_token
        self._name = run.rules.consumer

    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        """Bring every one of ``items`` to a durable outcome; return how many messages were published.

        Raises:
            LeaseLostError: the messages belong to another process by now.
            TransientError: the database is away; those without an outcome must be delivered again.
        """
        published = 0
        stopped = frozenset[str]()
        token = self._new_token()
        waiting = list(items)
        left: list[Item] = []
        known = await self._read_business_keys(items)
        while waiting:
            entry = await self._source.run(self._enter(waiting, intake, token, known))
            stopped |= self._run.stopped_by(entry.report)
            self._books.tell(entry.report)
            outcomes = Outcomes(since=self._clock.monotonic())
            async with self._kept(entry.ready, token):
                for group in _groups(entry.ready, at_most=1 if entry.suspects else FEW):
                    async with self._books.trying(group, entry.suspects):
                        for item in group:
                            if left or self._run.is_shut(item):
                                left.append(item)
                                continue
                            stopped |= await self._one(item, outcomes, stopped)
                            if self._is_due(outcomes):
                                undone = [*entry.ready[entry.ready.index(item) + 1 :], *entry.busy]
                                published += await self._write(outcomes, intake, token, undone=undone)
                                stopped |= self._run.stopped_by(outcomes.report)
                                outcomes = Outcomes(since=self._clock.monotonic())
                published += await self._write(outcomes, intake, token, undone=[*left, *entry.busy])
                stopped |= self._run.stopped_by(outcomes.report)
                await self._leave_alone(left, token)
            waiting = entry.busy
            if left:
                await self._books.leave([*left, *waiting])
                break
            if waiting:
                await self._clock.sleep(LOOK_AGAIN)
        size.grow()
        return published

    async def _read_business_keys(self, items: Sequence[Item]) -> Mapping[str, Suspect]:
        """Ask for the keys before anything is claimed; return those that a dead process left behind.

        Whatever finds a key is the user's as the handler is: a message by which it ends the process is found out alike.
        """
        if self._run.rules.business_row is None:
            return {}
        suspects = await self._source.run(self._books.start(items))
        for group in _groups(items, at_most=1 if suspects else FEW):
            async with self._books.trying(group, suspects):
                self._marks_of(group)  # each item keeps its own
                await self._books.keep_company(group, suspects)
        return suspects

    async def _one(self, item: Item, outcomes: Outcomes, stopped: frozenset[str]) -> frozenset[str]:
        """Call the handler for one message; return the keys of which nothing more may run now."""
        report = outcomes.report
        if item.hold_key in stopped:
            report.behind.append(item)
            return frozenset()
        if not self._run.rules.handles(item.message) and not item.is_put_off:
            report.discarded.append(item)
            return frozenset()
        if item.is_through:
            report.handled.append(item)
            return frozenset()
        outcomes.has_called = True
        if (records := await self._attempt(item)) is not None:
            if records:
                outcomes.records[item.message.id] = records
            report.handled.append(item)
            return frozenset()
        self._run.put_aside(item, report)
        return self._run.stopped_by(report)

    def _is_due(self, outcomes: Outcomes) -> bool:
        """Tell whether outcomes must be written before another handler is called."""
        waited = self._clock.monotonic() - outcomes.since
        is_late = waited >= WRITE_EVERY.total_seconds()
        return (outcomes.has_called and self._run.rules.deduplicates) or is_late or self._has_stopped(outcomes)

    def _has_stopped(self, outcomes: Outcomes) -> bool:
        return self._run.rules.stops and bool(outcomes.report.dead)

    async def _write(self, outcomes: Outcomes, intake: Intake, token: str, *, undone: Sequence[Item]) -> int:
        """Make outcomes durable and tell of them; return how many messages were published.

        Raises:
            StoppedByDeadLetter: one of them is a dead letter that stops the consumer; ``undone`` goes back.
        """
        while outcomes.items:
            try:
                await self._source.run(self._leave(outcomes, intake, token))
            except RunSpoiled as spoiled:
                self._take_back(outcomes, spoiled)
                continue
            self._books.tell(outcomes.report)
            break
        if self._has_stopped(outcomes):
            raise StoppedByDeadLetter(self._name, undone)
        return outcomes.report.published

    def _take_back(self, outcomes: Outcomes, spoiled: RunSpoiled) -> None:
        """Note that what a handler answered cannot be written; the transaction was rolled back."""
        report, item, verdict = outcomes.report, spoiled.item, spoiled.verdict
        report.handled = [one for one in (*report.handled, *report.suppressed) if one is not item]
        report.suppressed = []
        outcomes.records.pop(item.message.id, None)
        if not isinstance(verdict, RetryLater | GiveUp):
            verdict = delayed(self._run.rules.retry, dice=self._run.rules.dice())
        item.verdict = verdict
        self._run.put_aside(item, report)

    async def _attempt(self, item: Item) -> Sequence[OutboxRecord] | None:
        """Invoke until the handler returns or its immediate attempts are over; ``None`` if the item must wait."""
        while item.verdict is None and (wish := self._run.wish(item)) is not None:
            answer = await self._caller.call(wish)
            if isinstance(answer, Returned):
                answer = self._run.noted(wish.contexts[0], answer)
            if isinstance(answer, Returned):
                self._run.rules.needs.succeeded(item.probe)
                return wish.contexts[0].records
            verdict = self._run.judge(item, answer.error)
            if verdict is not None and not isinstance(verdict, RetryNow):
                item.verdict = verdict
        return None

    async def _leave_alone(self, items: Sequence[Item], token: str) -> None:
        """Give up the claims of messages that go back."""
        if items and self._run.rules.deduplicates:
            await self._source.run(self._claims.release(self._name, self._marks_of(items), token=token))

    def _enter(self, items: Sequence[Item], intake: Intake, token: str, known: Mapping[str, Suspect]) -> Program[Entry]:
        """Note that all are about to be handled, claim what can be claimed, and close what needs no handler."""
        rules = self._run.rules
        entry = Entry(suspects={**(yield from self._books.start(items)), **known})
        admitted = yield from intake.admit(items)
        sort_out(without(items, admitted), entry.report, waiting=entry.report.held)
        marks = self._marks_of(admitted)
        claimed = set(marks)
        if marks and rules.deduplicates:
            claimed = set((yield from self._claims.claim(self._name, marks, token=token, ttl=self._lease)))
        unclaimed = [mark for mark in marks if mark not in claimed]
        processed = set((yield from self._claims.processed(self._name, unclaimed)) if unclaimed else ())
        busy_keys = set[str]()
        new: list[Item] = []
        for item in admitted:
            if not processed.isdisjoint(item.marks):
                entry.report.suppressed.append(item)
            elif item.hold_key in busy_keys:
                entry.busy.append(item)
            elif not rules.handles(item.message):
                new.append(item)
            elif claimed.issuperset(item.marks):
                claimed.difference_update(item.marks)  # a second copy in the same batch waits for the first
                new.append(item)
            else:
                busy_keys.add(item.hold_key)
                entry.busy.append(item)
        entry.ready += yield from rules.gate.admit(new, processed=entry.report.suppressed)
        sort_out(without(new, entry.ready), entry.report, waiting=entry.report.early)
        yield from rules.guard.look(entry.ready)
        if rules.deduplicates:
            yield from self._tidy(entry.report, needless=claimed, token=token)
        yield from self._close(entry.report, intake)
        return entry

    def _tidy(self, report: RunReport, *, needless: Collection[str], token: str) -> Program[None]:
        """Give up what was claimed for nobody: who keeps a part while it waits for another could wait for ever.

        What means the same as a processed message is processed too, so that its own copies are known later on.
        """
        # what is held now may have been claimed before, while it waited behind one that was busy
        unclaimed = [*needless, *self._marks_of([*report.held, *report.early, *report.returned])]
        if unclaimed:
            yield from self._claims.release(self._name, sorted(unclaimed), token=token)
        if self._run.rules.business_row is not None and report.suppressed:
            yield from self._run.rules.inbox.record(self._name, self._marks_of(report.suppressed))

    def _close(self, report: RunReport, intake: Intake) -> Program[None]:
        """Close what needs no handler now."""
        done = [*report.suppressed, *report.early]
        closed = [*report.held, *done]
        if closed or report.returned:
            ids = [item.message.id for item in (*closed, *report.returned)]
            yield from self._run.rules.attempts.clear(self._name, ids)
        if closed:
            yield from intake.accept(closed, done)

    def _marks_of(self, items: Sequence[Item]) -> list[str]:
        handled = (item for item in items if self._run.rules.handles(item.message))
        return sorted({mark for item in handled for mark in self._run.marks_of(item)})

    def _leave(self, outcomes: Outcomes, intake: Intake, token: str) -> Program[None]:
        """Write outcomes and give the claims up, in one transaction."""
        rules, report = self._run.rules, outcomes.report
        items = outcomes.items
        if report.handled and rules.deduplicates:
            first = set((yield from rules.inbox.record(self._name, self._marks_of(report.handled))))
            report.suppressed = [item for item in report.handled if not first.issuperset(item.marks)]
            report.handled = [item for item in report.handled if first.issuperset(item.marks)]
        records = [record for item in report.handled for record in outcomes.records.get(item.message.id, ())]
        yield from self._run.close(items, intake, report, records)
        if rules.deduplicates:
            yield from self._claims.release(self._name, self._marks_of(items), token=token)

    @asynccontextmanager
    async def _kept(self, items: Sequence[Item], token: str) -> AsyncGenerator[None]:
        """Extend the claims for as long as the handlers take; what they leave behind in an error is given up."""
        if not self._run.rules.deduplicates:
            yield
            return
        marks = self._marks_of(items)

        async def renew() -> None:
            await self._source.run(self._claims.renew(self._name, marks, token=token, ttl=self._lease))

        try:
            async with repeated(renew, every=self._lease / 3, clock=self._clock):
                yield
        except Exception:
            with suppress(PillarboxError):
                await self._source.run(self._claims.release(self._name, marks, token=token))
            raise


def _groups(items: Sequence[Item], *, at_most: int) -> Sequence[Sequence[Item]]:
    return [items[start : start + at_most] for start in range(0, len(items), at_most)]


class Caller:
    """Invokes a handler that has no transaction, in a thread if it is a plain function."""

    def __init__(self, consumer: Consumer, *, providers: Providers) -> None:
        """Invoke the handler of ``consumer``."""
        self._consumer = consumer
        self._providers = providers

    async def call(self, wish: Invoke) -> Returned | Raised:
        """Invoke it and report what came of it."""
        timeout = self._consumer.options.timeout
        try:
            if timeout is None:
                return Returned(await self._call(wish))
            async with asyncio.timeout(timeout.total_seconds()):
                return Returned(await self._call(wish))
        except (Exception, asyncio.CancelledError) as caught:
            return Raised(failure_of(caught), touched=False)

    async def _call(self, wish: Invoke) -> object:
        signature = self._consumer.signature
        given: dict[str, object] = {}
        for name, kind in signature.wants.items():
            given[name] = wish.asked(kind) or await self._providers.get(kind)
        if signature.is_async:
            value: Any = self._consumer.handler(wish.payload, **given)
            return await value
        return await in_thread_of_its_own(self._consumer.handler, wish.payload, **given)
