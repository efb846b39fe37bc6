"""The orchestrator: takes sagas that are due through transactions, many at once, and makes their calls in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

from pillarbox.channel.wakeup import Pace, Wakeup
from pillarbox.clock import Clock
from pillarbox.errors import ConfigurationError, ConflictError, DecodeError, InvalidMessageError, TransientError
from pillarbox.observe import (
    Observer,
    SagaEnded,
    SagaNeedsAttention,
    SagaStepFailed,
    SagaUnreadable,
    WorkerFaltered,
)
from pillarbox.ordering import RunSize
from pillarbox.saga.arrivals import PASSING
from pillarbox.saga.catalogue import Catalogue
from pillarbox.saga.course import Course
from pillarbox.saga.happening import MICROSECOND
from pillarbox.saga.journal import Entry
from pillarbox.saga.load import Load
from pillarbox.saga.machine import MARGIN
from pillarbox.saga.rules import Call, Outcome, Rules, Surrounding
from pillarbox.saga.shortcut import Shortcut
from pillarbox.saga.store import SagaKey, SagaRow, SagaStore
from pillarbox.saga.verdicts import Spoiled, Verdicts
from pillarbox.transaction import OpenTransaction, TransactionSource

SAGAS_AT_ONCE = 500
CALLS_AT_ONCE = 500
LONGEST_TURN_S = 0.5
"""When a transaction has been open for so long, no further saga is taken into it, and no further step of one."""
SHORTEST_POLL, LONGEST_POLL = timedelta(milliseconds=10), timedelta(milliseconds=500)
PAUSE = timedelta(seconds=1)
UNREADABLE = "what is kept of the saga"
UNREADABLE_AGAIN = timedelta(minutes=1)
"""After so long a saga that could not be read is looked at again: a release may have mended it."""
NO_TIME = timedelta(0)


class Found(Enum):
    """What a turn has found."""

    NOTHING = auto()
    SOME = auto()
    MORE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where sagas are driven."""

    store: SagaStore
    source: TransactionSource
    clock: Clock
    observer: Observer


class SagaOrchestrator:
    """Drives the sagas of one service, beside any number of others of its kind.

    Whoever has a saga's row locked moves it on; a call to the outside belongs to whoever has written its intent, until
    its time is over. So there is nothing to recover when a process ends: what it leaves behind falls due.
    EIP: *Process Manager*.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        rules: Rules,
        around: Workplace,
        *,
        wakeup: Wakeup,
        on_published: Callable[[], None],
    ) -> None:
        """Run the definitions in ``catalogue``."""
        self._catalogue = catalogue
        self._rules = rules
        self._store = around.store
        self._source = around.source
        self._clock = around.clock
        self._observer = around.observer
        self._wakeup = wakeup
        self._on_published = on_published
        self._size = RunSize(largest=SAGAS_AT_ONCE)
        self._load = Load(largest=CALLS_AT_ONCE)
        self._shortcut = Shortcut(store=around.store, source=around.source, clock=around.clock)
        self._read_at = 0.0
        self._verdicts = Verdicts()
        self._outcomes: list[Outcome] = []
        self._calling = 0
        self._nothing_until = 0.0  # is due, by our clock, but for what comes back or is rung for
        self._is_idle = False
        self._stopping = False

    @property
    def in_hand(self) -> int:
        """How many calls are under way, or have come back and are not written down yet."""
        return self._calling + len(self._outcomes)

    def stop(self) -> None:
        """Begin nothing new; ``run`` ends when the calls under way have come back and are written down."""
        self._stopping = True
        self._wakeup.ring()

    async def run(self) -> None:
        """Work until ``stop``."""
        pace = Pace(shortest=SHORTEST_POLL, longest=LONGEST_POLL)
        async with asyncio.TaskGroup() as group:
            while not self._stopping or self._calling or self._outcomes:
                found: Found | None = None
                try:
                    found = await self.turn(group)
                except (TransientError, ConflictError) as error:
                    worker = type(self).__name__
                    self._observer.notice(WorkerFaltered.by(error, worker=worker, retry_after=LONGEST_POLL))
                if found in (Found.SOME, Found.MORE):
                    pace.found_work()
                    await self._clock.sleep(NO_TIME)  # calls that are quick come back, and into one transaction
                if found is None or (found is not Found.MORE and not self._outcomes):
                    least = NO_TIME if found is Found.SOME else SHORTEST_POLL  # what is due may be in other hands
                    self._is_idle = True
                    if await self._wakeup.wait(self._clock, max(await self._pause(pace), least)):
                        self._hurry(self._clock.monotonic())
                    self._is_idle = False

    async def turn(self, group: asyncio.TaskGroup) -> Found:
        """Take what is due through one transaction; begin its calls in ``group``; return what there was.

        Raises:
            TransientError: the database is away; nothing was changed.
            ConflictError: it asks for the transaction again; nothing was changed.
        """
        outcomes = self._outcomes[: self._size.size]
        asked_at = self._clock.monotonic()
        if self._wakeup.is_rung:
            self._hurry(asked_at)
        if len({one.call.key for one in outcomes}) == 1 and asked_at < self._nothing_until and not self._stopping:
            gone_on = await self._shortcut.go_on(outcomes, lambda row: self._course(row, []))
            if gone_on is not None:
                course, asked_at = gone_on
                self._is_written([course], outcomes, asked_at, group)
                return Found.SOME
        met: list[Course] = []
        unreadable: list[SagaUnreadable] = []
        try:
            has_more = await self._transact(outcomes, met, unreadable)
        except Spoiled as spoiled:
            self._verdicts.note_spoiled(spoiled)
            self._size.shrink()
            return Found.MORE
        except Exception as error:
            self._blame(self._source.translate(error), met)
            return Found.MORE
        self._size.grow()
        for event in unreadable:
            key = SagaKey(event.saga, event.saga_id)
            self._verdicts.forget(key, [(key, UNREADABLE)])
            self._observer.notice(event)
        for course in met:
            self._shortcut.note(course, self._read_at)
        self._is_written(met, outcomes, asked_at, group)
        found = Found.SOME if met or outcomes else Found.NOTHING
        return Found.MORE if has_more else found

    def _is_written(
        self, met: Sequence[Course], outcomes: Sequence[Outcome], asked_at: float, group: asyncio.TaskGroup
    ) -> None:
        """Tell of what is durable now, and begin the calls whose intents are."""
        del self._outcomes[: len(outcomes)]
        for course in met:
            self._verdicts.forget(course.row.key, course.heeded)
            self._tell(course)
            if course.due_us is not None:
                due_in_s = (course.due_us - course.row.now_us) * MICROSECOND.total_seconds()
                self._nothing_until = min(self._nothing_until, asked_at + due_in_s)
            for call in course.calls:
                self._calling += 1
                group.create_task(self._call(call, asked_at))
        if any(course.records for course in met):
            self._on_published()

    def _hurry(self, now: float) -> None:
        """Look soon, whatever has come back: somebody may have rung for what is due."""
        self._nothing_until = min(self._nothing_until, now + SHORTEST_POLL.total_seconds())

    async def _transact(self, outcomes: Sequence[Outcome], met: list[Course], unreadable: list[SagaUnreadable]) -> bool:
        """Run courses in one transaction and commit it; ``met`` are those that were begun, others are unreadable.

        Returns:
            Whether there may be more that is due.
        """
        by_key: dict[SagaKey, list[Outcome]] = {}
        for outcome in outcomes:
            by_key.setdefault(outcome.call.key, []).append(outcome)
        began = self._clock.monotonic()

        def is_long() -> bool:
            return self._clock.monotonic() - began > LONGEST_TURN_S

        async with self._source.begin(shared=True) as transaction:
            rows, has_more = await self._rows(transaction, by_key)
            self._read_at = self._clock.monotonic()
            around = Surrounding(
                connection=transaction.connection,
                service=self._rules.service,
                verdicts=self._verdicts,
                has_room=lambda: self._size.is_largest and not is_long(),
                stops=self._stopping,
            )
            for row in rows:
                if met and row.key not in by_key and is_long():
                    has_more = True
                    break
                if (course := self._course(row, unreadable)) is not None:
                    met.append(course)
                    await _run(course, by_key.get(row.key, ()), around)
            children = [child for course in met for child in course.children.values()]
            if children:
                _check_started(met, await transaction.run(self._store.start(children)))
            postponed = _postponed(unreadable, by_key)
            await transaction.run(self._store.save([course.changed() for course in met], postponed=postponed))
            if unlocked := [course.row.key for course in met if course.unlocks]:
                await transaction.run(self._rules.locks.release(unlocked))
            records = [record for course in met for record in course.records]
            if records:
                await transaction.run(self._rules.outbox.append(records))
        has_more = has_more or bool(children) or any(course.is_due for course in met)
        if has_more:
            self._nothing_until = began
        return has_more

    async def _rows(
        self, transaction: OpenTransaction, by_key: dict[SagaKey, list[Outcome]]
    ) -> tuple[Sequence[SagaRow], bool]:
        """Lock what calls have come back for, then what is due: who waits for a row has none locked.

        Returns:
            The rows, and whether there may be more that is due.
        """
        returned = await transaction.run(self._store.lock(by_key)) if by_key else ()
        room = min(self._size.size, self._load.most - self._calling)
        if not self._size.is_largest:
            room = min(room, self._size.size - len(by_key))  # at last one alone, so that it is known whose fault it is
        if self._stopping or room <= 0:
            return returned, not self._stopping and self._calling < self._load.most
        now = self._clock.monotonic()
        if by_key and now < self._nothing_until:
            return returned, False
        found = await transaction.run(self._store.due(self._rules.service, self._catalogue.names, limit=room))
        due = self._load.weigh(found)
        has_more = len(found) == room or len(due) < len(found)
        self._nothing_until = now if has_more else now + SHORTEST_POLL.total_seconds()
        return [*returned, *(row for row in due if row.key not in by_key)], has_more

    def _course(self, row: SagaRow, unreadable: list[SagaUnreadable]) -> Course | None:
        """Return the course of a saga; ``None`` if it cannot be read, which is then among ``unreadable``."""
        saga, saga_id = row.key
        error = self._verdicts.error_of((row.key, UNREADABLE))
        if error is None:
            try:
                definition = self._catalogue.get(saga, row.version)
                if definition is None:
                    raise DecodeError(message_type=saga, reason=f"its version {row.version} is not run here")
                return Course(row, definition, self._rules)
            except (DecodeError, InvalidMessageError) as found:  # the latter of a state that was made current
                error = found
        words = error.reason if isinstance(error, DecodeError | InvalidMessageError) else str(error)  # it is no message
        words = self._rules.redact(words)
        unreadable.append(SagaUnreadable(saga=saga, saga_id=saga_id, version=row.version, error=words))
        return None

    def _blame(self, error: Exception, met: Sequence[Course]) -> None:
        """Judge an error that no function raised: the commit failed, or a statement of ours.

        A saga for which nobody is to blame waits, and what its calls came back with is dropped.

        Raises:
            TransientError, ConflictError: it is nobody's fault.
        """
        self._size.shrink()
        if isinstance(error, TransientError | ConflictError):
            raise error
        if len(met) > 1 or any(course.steps > 1 for course in met):
            return  # whose fault it is comes to light when each has a transaction of its own
        called = [(course.row.key, function) for course in met for function in course.called]
        suspects = [one for one in called if self._verdicts.error_of(one) is None]
        if suspects:
            self._verdicts.note(suspects[-1], error)
        elif not met:
            raise error
        elif self._rules.classification.classify(error).kind in PASSING:
            raise TransientError(f"sagas cannot be written down for now: {error}") from error
        else:
            self._verdicts.note((met[0].row.key, UNREADABLE), error)

    async def _call(self, call: Call, asked_at: float) -> None:
        """Make a call, unless it is too late for it: then it is put back, and was no attempt."""
        try:
            if self._clock.monotonic() - asked_at > MARGIN.total_seconds():
                self._size.shrink()
                self._outcomes.append(Outcome(call=call, answer=None))
                return
            answer = await self._rules.invoker.outside(
                call.defined.function,
                call.defined.signature,
                (call.given,),
                call.context,
                timeout=call.defined.timeout,
            )
            self._outcomes.append(Outcome(call=call, answer=answer))
        finally:
            self._calling -= 1
            if self._is_idle:  # a turn that is under way is followed by one for what has come back
                self._wakeup.ring()

    async def _pause(self, pace: Pace) -> timedelta:
        """Return how long nothing is due."""
        pause = pace.pause()
        if self._stopping or self._outcomes:
            return SHORTEST_POLL
        try:
            wait = await self._source.run_single(self._store.next_due(self._rules.service, self._catalogue.names))
        except (TransientError, ConflictError):
            return PAUSE
        pause = pause if wait is None else max(min(pause, wait), NO_TIME)
        self._nothing_until = self._clock.monotonic() + pause.total_seconds()
        return pause

    def _tell(self, course: Course) -> None:
        for entry in course.news():
            happened = _event_of(course, entry)
            if happened is not None:
                self._observer.notice(happened)


async def _run(course: Course, outcomes: Sequence[Outcome], around: Surrounding) -> None:
    """Run a course.

    Raises:
        Spoiled: the transaction must be done again, perhaps since it turned out that the saga cannot be read.
    """
    try:
        await course.run(outcomes, around)
    except DecodeError as error:
        raise Spoiled(course.row.key, UNREADABLE, error) from error


def _check_started(met: Sequence[Course], started: Collection[SagaKey]) -> None:
    """See to it that each child is its parent's own.

    Raises:
        Spoiled: the id of one was taken, so that its step has failed.
    """
    unclaimed = set(started)
    for course in met:
        for place, child in course.children.items():
            if child.key not in unclaimed:
                text = f"a saga {child.key.saga!r} of the id {child.key.saga_id!r} is there already, and is no child"
                raise Spoiled(course.row.key, place, ConfigurationError(text))
            unclaimed.remove(child.key)


def _postponed(unreadable: Sequence[SagaUnreadable], returned: Collection[SagaKey]) -> Mapping[SagaKey, timedelta]:
    """Return when to look again at what is due and cannot be read, so that others are not held up by it.

    What only a call has come back for is due when it was, perhaps at once for another release that has taken it over.
    """
    keys = [SagaKey(one.saga, one.saga_id) for one in unreadable]
    return {key: UNREADABLE_AGAIN for key in keys if key not in returned}


FAILURES = frozenset({"failed", "given up", "refused"})


def _event_of(course: Course, entry: Entry) -> SagaEnded | SagaNeedsAttention | SagaStepFailed | None:
    """Return what is told of a line of history; ``None`` for what is no news to anybody."""
    saga, saga_id = course.row.key
    if entry.what in ("completed", "compensated"):
        return SagaEnded(saga=saga, saga_id=saga_id, status=entry.what)
    if entry.what == "needs attention":
        return SagaNeedsAttention(saga=saga, saga_id=saga_id, error=course.journal.error)
    if entry.what in FAILURES:
        return SagaStepFailed(
            saga=saga,
            saga_id=saga_id,
            step=entry.step,
            direction=entry.direction.value,
            attempt=entry.attempt,
            error=entry.error,
            is_final=entry.what != "failed",
        )
    return None
