"""The log tailing relay: publishes what the database's own log says was committed, in the order of commits.

Broker confirm, then rows and checkpoint in one transaction, then the log's own mark: after a crash at any point what
was not settled is sent again, and inside a transaction no more than the window.
Source: microservices.io, *Transaction log tailing*; Debezium's issues on resuming inside a transaction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

from pillarbox.errors import LeaseLostError, LogBrokenError
from pillarbox.observe import LogGapFound, Observer
from pillarbox.relay.log_decision import Heal, decide
from pillarbox.relay.log_reader import Checkpoint, LogCheckpoints, LogEntry, LogReader, Outlook
from pillarbox.relay.reader import Aside, PendingRecord
from pillarbox.relay.watermark import Feed

if TYPE_CHECKING:
    from pillarbox.lease import LeaseKeeper


LEAST_BYTES = 64 << 10
"""The idle place is not written down before the log has grown by this much: what is less holds back no file of it."""


class LogTailingFeed(Feed):
    """Gives records in the order of commits; after a gap in the log, first those that are still in the table."""

    def __init__(
        self,
        *,
        reader: LogReader,
        checkpoints: LogCheckpoints,
        keeper: LeaseKeeper,
        observer: Observer,
        has_table: bool = True,
        idle_every: timedelta = timedelta(seconds=10),
        keep: bool = False,
    ) -> None:
        """Read while all slots of ``keeper`` are held.

        Args:
            reader: the log.
            checkpoints: where the place in it is written down.
            keeper: holds the slots.
            observer: is told of gaps.
            has_table: false where records exist in the log alone.
            idle_every: how often the place is written down though nothing was published.
            keep: published records are kept.
        """
        self._reader = reader
        self._checkpoints = checkpoints
        self._keeper = keeper
        self._source = keeper.source
        self._clock = keeper.clock
        self._observer = observer
        self._has_table = has_table
        self._keep = keep
        self._idle_every_s = idle_every.total_seconds()
        self._given: deque[LogEntry] = deque()
        self._checkpoint: Checkpoint | None = None
        self._is_broken = False
        self._healed_up_to = 0
        self._wait_until = float("-inf")

    async def open(self) -> None:
        """Compare slot and checkpoint; heal where they do not fit together, else read on."""
        await self.close()
        try:
            await self._open()
        except BaseException:
            await self.close()  # a connection that nobody serves would keep a stopping server waiting
            raise

    async def _open(self) -> None:
        outlook = await self._reader.look()
        found = await self._source.run_single(self._checkpoints.load())
        decision = decide(outlook, found, is_broken=self._is_broken, has_table=self._has_table)
        if isinstance(decision, Heal):
            checkpoint = await self._begin_to_heal(outlook, found, decision)
        else:
            found = decision.checkpoint
            checkpoint = replace(found, timeline=outlook.timeline, has_table=found.has_table and self._has_table)
            if checkpoint != found:
                await self._save(checkpoint)
        self._checkpoint = checkpoint
        self._is_broken = False
        self._healed_up_to = 0
        self._wait_until = self._clock.monotonic() + self._idle_every_s
        if checkpoint.healing_snapshot is None:
            await self._start(checkpoint)

    async def next(self, *, limit: int) -> Sequence[PendingRecord]:
        """Return what has arrived; note the place in the log now and then while nothing arrives."""
        checkpoint = self._opened
        if checkpoint.healing_snapshot is not None:
            return await self._next_present(checkpoint.healing_snapshot, limit)
        try:
            entries = await self._reader.take(limit)
        except LogBrokenError:
            self._is_broken = True
            raise
        self._given.extend(entries)
        if not self._given:
            await self._advance_idle()
        return [entry.record for entry in entries]

    async def settle(self, done: Sequence[PendingRecord], asides: Sequence[Aside]) -> None:
        """Remove the rows and write the checkpoint; then tell the database what it need not keep."""
        entries = list(islice(self._given, len(done)))
        reached = self._behind(entries)
        program = self._checkpoints.settle(*self._fence, reached, entries, asides, keep=self._keep)
        is_single = not asides and not self._keep
        if not await (self._source.run_single(program) if is_single else self._source.run(program)):
            raise self._lost()
        for _ in entries:
            self._given.popleft()
        self._reach(reached)

    async def close(self) -> None:
        """Let go of the slot, so that another relay can read it."""
        self._given.clear()
        self._checkpoint = None
        await self._reader.close()

    async def _begin_to_heal(self, outlook: Outlook, found: Checkpoint | None, decision: Heal) -> Checkpoint:
        """Make a new slot; the table holds what the old one may have left out.

        A gap is told before the checkpoint forgets it: whoever finds that checkpoint takes it for told. The checkpoint
        bears the name of each slot for as long as it is there, so that somebody drops it wherever this ends.
        """
        if decision.gap is not None:
            self._observer.notice(LogGapFound(reason=decision.gap.value, healed=self._has_table))
        begun = Checkpoint(
            system_id=outlook.system_id,
            timeline=outlook.timeline,
            slot_name=outlook.slot_name,
            flushed_lsn=None,
            has_table=self._has_table,
        )
        replaced = None if found is None or found.slot_name == outlook.slot_name else found.slot_name
        await self._save(begun if replaced is None else replace(begun, slot_name=replaced))
        made = await self._reader.renew(
            instead_of=replaced, before=lambda: self._save(begun), meanwhile=self._keep_leases
        )
        healing = replace(begun, flushed_lsn=made.starts_at, healing_snapshot=made.snapshot)
        await self._save(healing)
        return healing

    async def _next_present(self, snapshot: str, limit: int) -> Sequence[PendingRecord]:
        program = self._checkpoints.present(snapshot, after=self._healed_up_to, limit=limit)
        found = await self._source.run_single(program)
        if found:
            self._healed_up_to = found[-1].position
            self._given.extend(LogEntry(record=record, number=0, transaction=None, in_table=True) for record in found)
        elif not self._given:
            healed = replace(self._opened, healing_snapshot=None)
            await self._save(healed)
            self._checkpoint = healed
            try:
                await self._start(healed)
            except BaseException:
                await self.close()
                raise
        return found

    async def _start(self, checkpoint: Checkpoint) -> None:
        try:
            await self._reader.start(checkpoint)
        except LogBrokenError:
            self._is_broken = True
            raise

    async def _advance_idle(self) -> None:
        """Write down how far the log was read, so that others' log is not kept for us."""
        passed = self._reader.passed_lsn
        checkpoint = self._opened
        if passed is None or passed - (checkpoint.flushed_lsn or 0) < self._least_bytes:
            return
        if self._clock.monotonic() < self._wait_until:
            return
        self._wait_until = self._clock.monotonic() + self._idle_every_s
        reached = replace(checkpoint, flushed_lsn=passed, partial_lsn=0, partial_rows=0)
        await self._save(reached)
        self._reach(reached)

    @property
    def _least_bytes(self) -> int:
        """Without a table the checkpoint's age is what tells that all is well, so it is renewed in any case."""
        return LEAST_BYTES if self._has_table else 0

    def _behind(self, done: Sequence[LogEntry]) -> Checkpoint:
        """Return the checkpoint behind ``done``, which is not empty."""
        checkpoint, last = self._opened, done[-1]
        current = last.transaction
        if current is None:
            return checkpoint
        if current.end_lsn is not None and last.number == current.rows:
            passed = self._reader.passed_lsn if len(done) == len(self._given) else None
            return replace(checkpoint, flushed_lsn=max(current.end_lsn, passed or 0), partial_lsn=0, partial_rows=0)
        before = (entry.transaction for entry in reversed(done) if entry.transaction is not current)
        complete = next(before, None)
        flushed = checkpoint.flushed_lsn if complete is None else complete.end_lsn
        return replace(checkpoint, flushed_lsn=flushed, partial_lsn=current.final_lsn, partial_rows=last.number)

    def _reach(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        if checkpoint.flushed_lsn is not None and checkpoint.healing_snapshot is None:
            self._reader.confirm(checkpoint.flushed_lsn)

    async def _save(self, checkpoint: Checkpoint) -> None:
        if not await self._source.run_single(self._checkpoints.save(*self._fence, checkpoint)):
            raise self._lost()

    async def _keep_leases(self) -> None:
        await self._keeper.keep()
        if not self._keeper.tokens:
            raise self._lost()

    @property
    def _opened(self) -> Checkpoint:
        if self._checkpoint is None:
            raise self._lost()
        return self._checkpoint

    @property
    def _fence(self) -> tuple[str, Sequence[int]]:
        return self._keeper.terms.scope, sorted(self._keeper.tokens.values())

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(lease=self._keeper.terms.scope, token=max(self._keeper.tokens.values(), default=0))
