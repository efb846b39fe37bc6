"""Drives open replay runs: in a running box, or on the command line."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_never

from pillarbox.channel.wakeup import Wakeup
from pillarbox.deadletter.runs import AwaitOutcomes, EndRun, EnqueueMore, ReplayRun, ReplayRunStore, RunState, next_step
from pillarbox.errors import ConflictError, TransientError
from pillarbox.lease import LeaseKeeper
from pillarbox.observe import Observer, WorkerFaltered

SCOPE = "replay runs"
"""The lease scope of those who drive; one at a time, so that the rates of runs hold."""

BATCH = 1000
"""Letters that one transaction makes due."""

RUNS_AT_ONCE = 20
WHILE_OPEN = timedelta(milliseconds=100)
WHILE_NOTHING_IS_OPEN = timedelta(seconds=1)
RESTS_FOR = 2
"""A round is followed by a rest of so many times its length, up to a second."""

LOOK_EVERY_S = 1.0
"""How often a run that is enqueued at full speed is looked at for its failures."""


class Allowance:
    """How many letters a run may enqueue now, by its rate: at most those of one second are saved up."""

    def __init__(self, rate: int, now: float) -> None:
        """Begin to count at ``now``, in seconds of any clock that only grows."""
        self._rate = rate
        self._saved = 0.0
        self._at = now

    def at(self, now: float) -> int:
        """Return how many may be enqueued at ``now``."""
        self._saved = min(self._saved + (now - self._at) * self._rate, float(self._rate))
        self._at = now
        return int(self._saved)

    def spend(self, count: int) -> None:
        """Note that ``count`` were enqueued."""
        self._saved -= count


class ReplayDriver:
    """Enqueues the letters of open runs under a lease; every step is a transaction, so that anyone may go on."""

    def __init__(self, *, runs: ReplayRunStore, keeper: LeaseKeeper, observer: Observer) -> None:
        """Drive ``runs`` while ``keeper`` holds its one slot."""
        self._runs = runs
        self._keeper = keeper
        self._source = keeper.source
        self._clock = keeper.clock
        self._observer = observer
        self._allowances: dict[str, Allowance] = {}
        self._wakeup = Wakeup()
        self._stopping = False
        self.rest = WHILE_OPEN
        """How long to rest after the last round: the longer it took, the longer."""

    def stop(self) -> None:
        """End ``run`` after the batch under way."""
        self._stopping = True
        self._wakeup.ring()

    async def run(self) -> None:
        """Drive until ``stop``, then let another go on at once."""
        while not self._stopping:
            try:
                pause = self.rest if await self.round() else WHILE_NOTHING_IS_OPEN
            except (TransientError, ConflictError) as error:
                self._observer.notice(
                    WorkerFaltered(
                        worker="replay runs",
                        error_type=type(error).__name__,
                        error=str(error),
                        retry_after=WHILE_NOTHING_IS_OPEN,
                    )
                )
                pause = WHILE_NOTHING_IS_OPEN
            if not self._stopping:
                await self._wakeup.wait(self._clock, pause)
        await self.leave()

    async def leave(self) -> None:
        """Let another go on at once."""
        await self._keeper.leave()

    async def round(self) -> bool:
        """Take each open run a step further; return whether there was any and it is ours to drive.

        Raises:
            TransientError, ConflictError: the step under way was not taken; take it again.
        """
        began = self._clock.monotonic()
        try:
            return await self._steps()
        finally:
            took = timedelta(seconds=self._clock.monotonic() - began)
            self.rest = max(WHILE_OPEN, min(took * RESTS_FOR, WHILE_NOTHING_IS_OPEN))

    async def _steps(self) -> bool:
        await self._keeper.keep()
        if not self._keeper.tokens:
            return False
        open_runs = await self._source.run(self._runs.find(RunState.OPEN, limit=RUNS_AT_ONCE))
        self._allowances = {one: self._allowances[one] for one in open_runs if one in self._allowances}
        for run_id in reversed(open_runs):
            await self._step(run_id)
        return bool(open_runs)

    async def _step(self, run_id: str) -> None:
        run = await self._source.run(self._runs.get(run_id))
        if run is None or run.state is not RunState.OPEN:
            return
        step = next_step(run)
        match step:
            case EnqueueMore(at_most=at_most):
                await self._enqueue(run, at_most)
            case AwaitOutcomes():
                pass
            case EndRun(state=state, because=because):
                await self._source.run(self._runs.end(run_id, state=state, because=because))
            case _:
                assert_never(step)

    async def _enqueue(self, run: ReplayRun, at_most: int) -> None:
        """Enqueue batch after batch for a while, or as many as the rate allows."""
        began = self._clock.monotonic()
        if run.terms.rate is not None:
            allowance = self._allowances.setdefault(run.id, Allowance(run.terms.rate, began))
            if due := min(allowance.at(began), at_most, BATCH):
                allowance.spend(await self._source.run(self._runs.enqueue(run.id, at_most=due)))
            return
        while at_most > 0 and not self._stopping and self._clock.monotonic() - began < LOOK_EVERY_S:
            await self._keeper.keep()
            done = await self._source.run(self._runs.enqueue(run.id, at_most=min(at_most, BATCH)))
            at_most -= done
            if not done:
                return
