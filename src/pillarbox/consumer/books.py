"""The books of a worker: which messages may have ended a process, and telling what became of each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

from pillarbox.consumer.item import Item
from pillarbox.consumer.report import RunReport
from pillarbox.consumer.run import Run
from pillarbox.consumer.surroundings import Surroundings
from pillarbox.deadletter import fingerprint_of
from pillarbox.deadletter.groups import Arrival
from pillarbox.errors import HandlerCrashedError
from pillarbox.holding import own_hold_key
from pillarbox.idempotency import Suspect, Trial
from pillarbox.observe import (
    AttemptFailed,
    ConsumerStopped,
    DuplicateSuppressed,
    MessageDead,
    MessageDiscarded,
    MessageHandled,
    MessageHeld,
)
from pillarbox.retry import GiveUp, RetryLater
from pillarbox.transaction import Program

TELL_AGAIN_AFTER = timedelta(minutes=1)
"""How often a process tells that a held key is full."""


class Books:
    """What one worker notes about the messages of one consumer."""

    def __init__(self, run: Run, around: Surroundings) -> None:
        """Note in the name of the process ``around``."""
        self._run = run
        self._source = around.source
        self._observer = around.observer
        self._worker = around.worker
        self._solitude = around.solitude
        self._clock = around.clock
        self._name = run.rules.consumer
        self._told_until: dict[str, float] = {}
        """For how long nothing more is told of full keys."""

    def start(self, items: Sequence[Item]) -> Program[Mapping[str, Suspect]]:
        """Note that all are about to be handled; return those that a dead process left behind."""
        ids = sorted({item.message.id for item in items})
        return self._run.rules.attempts.start(self._name, ids, worker=self._worker)

    def trying(self, batch: Sequence[Item], suspects: Mapping[str, Suspect]) -> AbstractAsyncContextManager[None]:
        """Handle ``batch`` in the block: who was among few before has the process to itself, all else shares it."""
        suspected = [item for item in batch if item.message.id in suspects]
        return self._suspecting(batch, suspected, suspects) if suspected else self._solitude.shared()

    async def keep_company(self, batch: Sequence[Item], suspects: Mapping[str, Suspect]) -> None:
        """Note that the suspects in ``batch`` are not alone, or not any more: no crash from now on is one's own."""
        if ids := [item.message.id for item in batch if item.message.id in suspects]:
            await self._source.run(self._run.rules.attempts.start_among_few(self._name, ids, worker=self._worker))

    @asynccontextmanager
    async def _suspecting(
        self, batch: Sequence[Item], suspected: Sequence[Item], suspects: Mapping[str, Suspect]
    ) -> AsyncGenerator[None]:
        if len(batch) == 1 and suspects[batch[0].message.id].trial is not Trial.RUN:
            async with self._solitude.alone():
                await self._count_crashes(batch[0])
                yield
            return
        async with self._solitude.shared():
            await self.keep_company(batch, suspects)
            yield

    async def _count_crashes(self, item: Item) -> None:
        """Count the crashes that were this message's own; too many, and it is given up."""
        rules = self._run.rules
        crashes = await self._source.run(rules.attempts.start_alone(self._name, item.message.id, worker=self._worker))
        if crashes >= rules.retry.attempts and item.verdict is None:
            item.attempts += crashes
            error = HandlerCrashedError(consumer=self._name, crashes=crashes)
            item.give_up("crashed", error, at=rules.now(), redact=rules.redact)

    async def leave(self, items: Sequence[Item]) -> None:
        """Note that ``items`` are not under way any more: they go back to where they came from."""
        for item in items:
            item.is_left = True
        await self._clear(items)

    async def turn_back(self, items: Sequence[Item]) -> None:
        """Note that ``items`` are not under way any more: they stand behind one that there was no room for."""
        for item in items:
            item.returned = True
        if items:
            await self._clear(items)

    async def _clear(self, items: Sequence[Item]) -> None:
        ids = sorted({item.message.id for item in items})
        await self._source.run(self._run.rules.attempts.clear(self._name, ids))

    def tell(self, report: RunReport) -> None:
        """Tell the observer of everything in ``report``, which is durable now."""
        notice = self._observer.notice
        for item in report.handled:
            notice(MessageHandled(consumer=self._name, message_id=item.message.id, attempts=item.attempts + 1))
        for event in report.notices:
            notice(event)
        self._tell_notices(report)
        for item in report.suppressed:
            notice(DuplicateSuppressed(consumer=self._name, message_id=item.message.id))
        for item in report.discarded:
            notice(MessageDiscarded(consumer=self._name, message_id=item.message.id))
        for item in [*report.held, *report.behind, *report.early]:
            notice(MessageHeld(consumer=self._name, message_id=item.message.id))
        for item in [*report.retried, *report.dead]:
            self._tell_failure(item)

    def _tell_notices(self, report: RunReport) -> None:
        for item in [*report.handled, *report.retried, *report.dead]:
            if item.notice is not None:
                self._observer.notice(item.notice)
        for item in report.returned:
            if item.notice is not None and self._is_news(item.hold_key):
                self._observer.notice(item.notice)

    def _is_news(self, full_key: str) -> bool:
        """Tell whether nothing was told of ``full_key`` lately."""
        now = self._clock.monotonic()
        if self._told_until.get(full_key, now) > now:
            return False
        self._told_until = {key: until for key, until in self._told_until.items() if until > now}
        self._told_until[full_key] = now + TELL_AGAIN_AFTER.total_seconds()
        return True

    def _tell_failure(self, item: Item) -> None:
        message_id = item.message.id
        if item.error is not None and not item.awaits:  # else its gate or guard did not let it come to an attempt
            self._observer.notice(
                AttemptFailed(
                    consumer=self._name,
                    message_id=message_id,
                    attempt=item.attempts,
                    error_type=type(item.error).__qualname__,
                    retry_after=item.verdict.after if isinstance(item.verdict, RetryLater) else None,
                )
            )
        if isinstance(item.verdict, GiveUp):
            arrival = item.arrival or Arrival()
            self._observer.notice(
                MessageDead(
                    consumer=self._name,
                    message_id=message_id,
                    reason=item.verdict.reason,
                    attempts=item.attempts,
                    error_type=type(item.error).__qualname__,
                    group="" if item.error is None else self._group_of(item, item.error),
                    holds_key=self._run.blocks(item) and item.hold_key != own_hold_key(message_id),
                    quiet_for=arrival.quiet_for,
                    regressed=arrival.regressed,
                )
            )
            if self._run.rules.stops:
                self._observer.notice(ConsumerStopped(consumer=self._name, message_id=message_id))

    def _group_of(self, item: Item, error: BaseException) -> str:
        return fingerprint_of(error, item.message.type, package=self._run.rules.package)
