"""How a batch of messages is divided into runs, and what follows when one of them fails."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from pillarbox.consumer.books import Books
from pillarbox.consumer.effects import BatchSpoiled, RunSpoiled
from pillarbox.consumer.intake import Intake
from pillarbox.consumer.item import CONFLICTS_IN_A_ROW, Item
from pillarbox.consumer.report import RunReport
from pillarbox.consumer.run import Run, RunProgram
from pillarbox.consumer.stopping import StoppedByDeadLetter
from pillarbox.consumer.surroundings import Surroundings
from pillarbox.errors import ConflictError, LeaseLostError, TransientError
from pillarbox.idempotency import Suspect, Trial
from pillarbox.observe import RunRolledBack
from pillarbox.ordering import RunSize
from pillarbox.retry import GiveUp, RetryNow

RERUNS_AS_BATCH = 2
"""How often what is left of a spoiled run is tried as one before its messages are handled singly."""
FEW = 10
"""How many messages are tried together after the process that had them ended."""


class Shell(Protocol):
    """Executes a run program in one transaction."""

    @abstractmethod
    async def transact(self, program: RunProgram, *, trusted: int | None = None) -> RunReport:
        """Run ``program`` and commit; whatever it raises has rolled the transaction back.

        Args:
            program: the run.
            trusted: how many invocations are made without a savepoint; what a later one writes before it fails is
                taken back alone, as if it had written nothing. ``None`` for all.
        """


class Process:
    """Handles batches of one consumer: one transaction if all goes well, more if not."""

    def __init__(self, run: Run, *, shell: Shell, around: Surroundings) -> None:
        """Handle what ``shell`` can execute."""
        self._run = run
        self._shell = shell
        self._source = around.source
        self._observer = around.observer
        self._name = run.rules.consumer
        self._books = Books(run, around)

    async def handle(self, items: Sequence[Item], *, intake: Intake, size: RunSize) -> int:
        """Bring every one of ``items`` to a durable outcome; return how many messages were published.

        Raises:
            LeaseLostError: the messages belong to another process by now; those not committed are its to handle.
            TransientError: the database is away; those not committed must be delivered again.
        """
        published = 0
        stopped = frozenset[str]()
        suspects = await self._source.run(self._books.start(items))
        work = deque(_divide(items, suspects))
        while work:
            batch = work.popleft()
            async with self._books.trying(batch, suspects):
                try:
                    report = await self._batch(batch, work, intake=intake, size=size, stopped=stopped)
                except StoppedByDeadLetter as error:
                    undone = [*batch, *(item for part in work for item in part)]
                    raise StoppedByDeadLetter(self._name, undone) from error
            if report is not None:
                stopped |= self._run.stopped_by(report)
                published += report.published
                self._books.tell(report)
                if report.returned:
                    await self._turn_back(report.returned, work)
                if report.left:
                    await self._books.leave([*report.left, *(item for part in work for item in part)])
                    break
        return published

    async def _turn_back(self, returned: Sequence[Item], work: deque[list[Item]]) -> None:
        """Take what is behind something that was given back out of ``work``, to be given back with it."""
        keys = {item.hold_key for item in returned}
        parts = [[item for item in part if item.hold_key not in keys] for part in work]
        await self._books.turn_back([item for part in work for item in part if item.hold_key in keys])
        work.clear()
        work.extend(part for part in parts if part)

    async def _batch(
        self,
        batch: list[Item],
        work: deque[list[Item]],
        *,
        intake: Intake,
        size: RunSize,
        stopped: frozenset[str],
    ) -> RunReport | None:
        """Run ``batch``; if it is spoiled, put what is left of it in front of ``work``.

        After a handler has spoiled it, what is from there on is tried behind savepoints: they cost as much as what
        handlers write, and the other failures of the batch less than another rerun each.
        """
        reruns = conflicts = 0
        trusted: int | None = None
        while conflicts <= CONFLICTS_IN_A_ROW:
            try:
                program = self._run.program(batch, intake=intake, stopped=stopped)
                report = await self._shell.transact(program, trusted=trusted)
            except RunSpoiled as spoiled:
                self._rolled_back(batch, "handler", size)
                if self._settle_verdict(spoiled, batch, work, is_first=trusted is None):
                    return None
                is_conflict = spoiled.verdict is None
                trusted = spoiled.handled if len(batch) > 1 else None
            except BatchSpoiled:
                self._rolled_back(batch, "handler", size)
                work.extendleft(reversed(_parts(batch, singly=False)))
                return None
            except (LeaseLostError, StoppedByDeadLetter):
                raise
            except Exception as error:
                is_judged = len(batch) == 1 and batch[0].verdict is None
                is_conflict = self._is_conflict(error, batch)
                conflicts += is_conflict and not is_judged  # a message alone counts its own
                self._rolled_back(batch, type(error).__name__, size)
            else:
                size.grow()
                return report
            reruns += 1
            if len(batch) > 1 and (reruns > RERUNS_AS_BATCH or is_conflict):
                work.extendleft(reversed(_parts(batch, singly=reruns > RERUNS_AS_BATCH)))
                return None
        raise TransientError(f"{self._name}: the database keeps asking for the transaction again")

    def _is_conflict(self, error: Exception, batch: list[Item]) -> bool:
        """Tell whether the database asked for another try; if not, a message that was alone is to blame."""
        translated = self._source.translate(error)
        if isinstance(translated, TransientError):
            raise translated from error
        is_conflict = isinstance(translated, ConflictError)
        if len(batch) > 1:
            return is_conflict
        if batch[0].verdict is not None:  # no handler ran: even putting it aside fails, which is not its fault
            if is_conflict:
                return True
            raise error
        verdict = self._run.judge(batch[0], error)
        if verdict is not None and not isinstance(verdict, RetryNow):
            batch[0].verdict = verdict
        return is_conflict and verdict is None

    def _rolled_back(self, batch: list[Item], cause: str, size: RunSize) -> None:
        size.shrink()
        self._observer.notice(RunRolledBack(consumer=self._name, size=len(batch), cause=cause))

    def _settle_verdict(
        self, spoiled: RunSpoiled, batch: list[Item], work: deque[list[Item]], *, is_first: bool
    ) -> bool:
        """Note what follows for the culprit; return whether the batch was put back into ``work`` in parts."""
        culprit = spoiled.item
        if spoiled.verdict is None or (isinstance(spoiled.verdict, RetryNow) and is_first):
            return False  # it is tried at once, where it stands
        if not isinstance(spoiled.verdict, RetryNow):
            culprit.verdict = spoiled.verdict
            if not (self._run.rules.stops and isinstance(spoiled.verdict, GiveUp)):
                return False
        if len(batch) == 1:
            return False
        # what was before it did not fail, and what is behind it was not tried: nothing is done more than twice
        place = batch.index(culprit)
        parts = [batch[:place], [culprit], batch[place + 1 :]]
        work.extendleft(reversed([part for part in parts if part]))
        return True


def _divide(items: Sequence[Item], suspects: Mapping[str, Suspect]) -> list[list[Item]]:
    """Take what a dead process left behind, and what is behind it in its key, apart from the rest.

    It is tried among few first, since most of it was a bystander; what was among few when the process ended is tried
    alone.
    """
    alone = {item.hold_key for item in items if _is_prime(suspects.get(item.message.id))}
    together: list[Item] = []
    few: list[Item] = []
    singly: list[list[Item]] = []
    apart = set[str]()
    for item in items:
        if item.message.id in suspects:
            apart.add(item.hold_key)
        if item.hold_key not in apart:
            together.append(item)
        elif item.hold_key in alone:
            singly.append([item])
        else:
            few.append(item)
    groups = [few[start : start + FEW] for start in range(0, len(few), FEW)]
    return [*([together] if together else []), *groups, *singly]


def _is_prime(suspect: Suspect | None) -> bool:
    return suspect is not None and suspect.trial is not Trial.RUN


def _parts(batch: list[Item], *, singly: bool) -> list[list[Item]]:
    if singly:
        return [[item] for item in batch]
    middle = len(batch) // 2
    return [batch[:middle], batch[middle:]]
