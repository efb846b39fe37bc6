"""A way without a transaction: a saga whose call has come back goes on from what this process wrote last of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pillarbox.errors import ConflictError, TransientError
from pillarbox.saga.happening import MICROSECOND

if TYPE_CHECKING:
    from pillarbox.clock import Clock
    from pillarbox.saga.course import Course
    from pillarbox.saga.rules import Outcome
    from pillarbox.saga.store import SagaKey, SagaRow, SagaStore
    from pillarbox.transaction import TransactionSource

MOST = 1000
"""So many sagas are remembered; of those beyond, who was written longest ago is read again."""


class Shortcut:
    """Remembers sagas whose calls are under way, and writes one that goes on if nobody has changed it since.

    One statement does what else needs four: begin, read, write, commit. Only one saga at a time: who waits for a row
    must have none locked.
    """

    def __init__(self, *, store: SagaStore, source: TransactionSource, clock: Clock) -> None:
        """Remember nothing yet."""
        self._store = store
        self._source = source
        self._clock = clock
        self._rows: dict[SagaKey, tuple[SagaRow, float]] = {}

    def note(self, course: Course, read_at: float) -> None:
        """Remember how a saga was written that had been read by ``read_at``, if a call of it is under way.

        An instant too late takes the present for earlier than it is: nothing runs out of time before its time, and the
        next statement tells by how much.
        """
        self._note(course, course.row.now_us, read_at)

    async def go_on(
        self, outcomes: Sequence[Outcome], begin: Callable[[SagaRow], Course | None]
    ) -> tuple[Course, float] | None:
        """Write down what calls of one saga came back with, and the intents of those that follow.

        Returns:
            Its course, and the instant of our clock that it took for the present; ``None`` if nothing was written:
            somebody else was there, it has come to what needs a transaction, or something is wrong that is to be
            looked at in one.

        Raises:
            TransientError, ConflictError: the database is away, or asks for another try.
        """
        row = self._row(outcomes[0].call.key)
        if row is None or any(one.answer is None for one in outcomes):  # time has passed: the database tells how much
            return None
        course = begin(row)
        if course is None:
            return None
        try:
            await course.run(outcomes, None)
            program = self._store.save_unlocked(course.changed(), serial=row.serial)
            if program is None:
                return None
            asked_at = self._clock.monotonic()
            now_us = await self._source.run_single(program)
            read_at = self._clock.monotonic()
        except (TransientError, ConflictError):
            raise
        except Exception:
            return None
        if now_us is None:
            return None
        self._note(course, now_us, read_at)
        behind_us = max(now_us - row.now_us, 0)  # where this machine was halted, our clock too
        return course, asked_at - behind_us * MICROSECOND.total_seconds()

    def _note(self, course: Course, now_us: int, read_at: float) -> None:
        key, row = course.row.key, course.row
        self._rows.pop(key, None)
        if not course.journal.awaits_call:
            return
        changed = course.changed()
        written = replace(
            row,
            version=changed.version,
            state=changed.state,
            journal=changed.journal,
            serial=row.serial + 1,
            now_us=now_us,
        )
        self._rows[key] = written, read_at
        if len(self._rows) > MOST:
            del self._rows[next(iter(self._rows))]

    def _row(self, key: SagaKey) -> SagaRow | None:
        """Return a saga as it was written, and forget it; the time is the present."""
        remembered = self._rows.pop(key, None)
        if remembered is None:
            return None
        row, read_at = remembered
        passed_us = int((self._clock.monotonic() - read_at) / MICROSECOND.total_seconds())
        return replace(row, now_us=row.now_us + passed_us)
