"""Drives open replay runs: in a running box, or on the command line."""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import assert_never

from pillarbox.deadletter.batches import ReplayBatchStore, RunElsewhere
from pillarbox.deadletter.runs import (
    AwaitOutcomes,
    EndRun,
    EnqueueMore,
    ItemState,
    NextStep,
    ReplayRun,
    ReplayRunStore,
    RunState,
    next_step,
)
from pillarbox.errors import ConflictError, TransientError
from pillarbox.lease import LeaseKeeper
from pillarbox.observe import Observer
from pillarbox.rounds import AT_ONCE, Rounds

SCOPE = "replay runs"
"""The lease scope of those who drive; one at a time, so that the rates of runs hold."""

BATCH = 1000
"""Letters that one transaction makes due."""

HANDS = 2
"""Transactions of a run at once: while one takes keys and copies letters into holding, the next one takes its own."""

RUNS_AT_ONCE = 1000
WHILE_OPEN = timedelta(milliseconds=100)
WHILE_NOTHING_IS_OPEN = timedelta(seconds=1)
LOOK_EVERY_S, LOOK_AT_LEAST_EVERY_S = 1.0, 10.0
"""How often a run with a rule to stop is looked at while it is enqueued, and any one that is enqueued."""
LOOKS_SHARE = 100
"""A look at what has become of many letters takes long; the next one comes after so many times as long."""


def look_again_at(began: float, ended: float, *, longest: float = LOOK_AT_LEAST_EVERY_S) -> float:
    """Return when to look again at what took from ``began`` to ``ended`` to look at, in seconds of the same clock."""
    return ended + min((ended - began) * LOOKS_SHARE, longest)


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


@dataclass(slots=True)
class Look:
    """What was decided when a run was looked at, and until when that stands.

    Attributes:
        last: the last letter that has had its turn by now.
    """

    run: ReplayRun
    step: NextStep
    until: float
    last: int


@dataclass(slots=True)
class Stretch:
    """A part of a run that is made due by hands which take turns.

    Attributes:
        run_id: the run.
        left: so many letters more may be taken.
        until: when no other batch is begun, by the clock of the driver.
        last: the last letter taken; at first, where the run stands.
        turned: how many letters have had their turn, for good.
        has_ended: the run was cancelled or has none left, or there is an error.
        error: why a batch was not made due.
        letters: one hand at a time takes letters.
        keys: one hand at a time takes keys, in the order in which they took letters.
    """

    run_id: str
    last: int
    left: int
    until: float | None = None
    turned: int = 0
    has_ended: bool = False
    error: Exception | None = None
    letters: asyncio.Lock = field(default_factory=asyncio.Lock)
    keys: asyncio.Lock = field(default_factory=asyncio.Lock)


class ReplayDriver(Rounds):
    """Enqueues the letters of open runs under a lease; every step is a transaction, so that anyone may go on."""

    def __init__(
        self, *, runs: ReplayRunStore, batches: ReplayBatchStore, keeper: LeaseKeeper, observer: Observer
    ) -> None:
        """Drive ``runs`` while ``keeper`` holds its one slot."""
        super().__init__("replay runs", every=WHILE_NOTHING_IS_OPEN, clock=keeper.clock, observer=observer)
        self._runs = runs
        self._batches = batches
        self._keeper = keeper
        self._source = keeper.source
        self._allowances: dict[str, Allowance] = {}
        self._looks: dict[str, Look] = {}
        self.rest = WHILE_OPEN
        """How long to rest after the last round: not at all in the midst of a run at full speed."""

    def pause_after(self, found: int | None) -> timedelta:
        """Rest briefly while runs are open."""
        return self.rest if found else WHILE_NOTHING_IS_OPEN

    async def leave(self) -> None:
        """Let another go on at once."""
        await self._keeper.leave()

    async def round(self) -> bool:
        """Take each open run a step further; return whether there was any and it is ours to drive.

        Raises:
            TransientError, ConflictError: the step under way was not taken; take it again.
        """
        self.rest = WHILE_OPEN
        await self._keeper.keep()
        if not self._keeper.tokens:
            return False
        open_runs = await self._source.run(self._runs.find(RunState.OPEN, limit=RUNS_AT_ONCE))
        self._allowances = {one: self._allowances[one] for one in open_runs if one in self._allowances}
        self._looks = {one: self._looks[one] for one in open_runs if one in self._looks}
        failure: Exception | None = None
        for run_id in reversed(open_runs):
            try:
                await self._step(run_id)
            except RunElsewhere:
                del self._looks[run_id]
            except (TransientError, ConflictError) as error:  # the others are not to wait for this one
                self._looks.pop(run_id, None)
                failure = failure or error
        if failure is not None:
            raise failure
        return bool(open_runs)

    async def _step(self, run_id: str) -> None:
        look = self._looks.get(run_id)
        if look is None or self._clock.monotonic() >= look.until:
            look = await self._look(run_id)
        if look is None:
            return
        match look.step:
            case EnqueueMore(at_most=at_most):
                at_most -= await self._enqueue(look, at_most)
                if at_most > 0:
                    look.step = EnqueueMore(at_most)
                else:
                    look.step, look.until = AwaitOutcomes(), self._clock.monotonic()
            case AwaitOutcomes():
                pass
            case EndRun(state=state, because=because):
                await self._source.run(self._runs.end(run_id, state=state, because=because))
            case _:
                assert_never(look.step)

    async def _look(self, run_id: str) -> Look | None:
        """Look at what has become of a run's letters, and decide."""
        began = self._clock.monotonic()
        run = await self._source.run(self._runs.get(run_id))
        if run is None or run.state is not RunState.OPEN:
            return None
        may_stop = run.terms.stop_at is not None and run.count(ItemState.PENDING) > 0
        longest = LOOK_EVERY_S if may_stop else LOOK_AT_LEAST_EVERY_S
        step, until = next_step(run), look_again_at(began, self._clock.monotonic(), longest=longest)
        if isinstance(step, EnqueueMore) and not may_stop:
            until = math.inf  # whatever becomes of letters meanwhile, the others follow
        look = self._looks[run_id] = Look(run, step, until=until, last=run.reached)
        return look

    async def _enqueue(self, look: Look, at_most: int) -> int:
        """Enqueue batch after batch for a while, or as many as the rate allows; return how many had their turn.

        Raises:
            RunElsewhere: the run does not stand where it was looked at: another process drives it, or a batch is there
                whose commit gave no answer.
        """
        began, run = self._clock.monotonic(), look.run
        if run.terms.rate is not None:
            allowance = self._allowances.setdefault(run.id, Allowance(run.terms.rate, began))
            if not (due := min(allowance.at(began), at_most, BATCH)):
                return 0
            stretch = await self._make_due(look, Stretch(run.id, look.last, left=due))
            allowance.spend(stretch.turned)
            return at_most if stretch.has_ended else stretch.turned
        stretch = await self._make_due(look, Stretch(run.id, look.last, left=at_most, until=began + LOOK_EVERY_S))
        if stretch.has_ended:
            return at_most
        if stretch.left > 0:
            self.rest = AT_ONCE
        return stretch.turned

    async def _make_due(self, look: Look, stretch: Stretch) -> Stretch:
        """Make a stretch of a run due; while one batch is made due, the next one takes its letters."""
        async with asyncio.TaskGroup() as group:
            for _ in range(HANDS if stretch.left > BATCH else 1):
                group.create_task(self._hand(stretch))
        if stretch.error is not None:
            raise stretch.error
        look.last = stretch.last
        return stretch

    async def _hand(self, stretch: Stretch) -> None:
        """Make batch after batch due; one that fails is told of when the other hand has brought its own to an end.

        Keys are taken in the order in which letters were, since both locks are fair. Whoever has one waits for nobody
        but the database, which sees when transactions wait for each other.
        """
        while self._goes_on(stretch):
            try:
                await self._keeper.keep()
                async with AsyncExitStack() as turn:
                    await turn.enter_async_context(stretch.letters)
                    if not self._goes_on(stretch):
                        return
                    async with self._source.begin_briefly() as tx:
                        at_most = min(stretch.left, BATCH)
                        taken = await tx.run(self._batches.take(stretch.run_id, after=stretch.last, at_most=at_most))
                        if taken is None:
                            stretch.has_ended = True
                            return
                        stretch.last = taken.last
                        stretch.left -= taken.count
                        await turn.aclose()
                        async with stretch.keys:
                            await tx.run(self._batches.hold(taken))
                        await tx.run(self._batches.enqueue(taken))
            except Exception as error:
                stretch.has_ended = True
                if stretch.error is None or isinstance(stretch.error, RunElsewhere):  # which follows from a failure
                    stretch.error = self._source.translate(error)
                return
            stretch.turned += taken.count

    def _goes_on(self, stretch: Stretch) -> bool:
        if self._stopping or stretch.has_ended or stretch.left <= 0:
            return False
        return stretch.until is None or self._clock.monotonic() < stretch.until
