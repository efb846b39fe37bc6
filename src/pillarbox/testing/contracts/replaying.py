"""What the rules of replays do again and again: bury letters, make a run, take a batch of it through its steps."""

from __future__ import annotations

from pillarbox.deadletter import DeadLetterFilter, ReplayRun, ReplayRunStore, RunState
from pillarbox.deadletter.batches import ReplayBatchStore, RunElsewhere
from pillarbox.deadletter.runs import ReplayTerms
from pillarbox.errors import ConflictError
from pillarbox.testing.contracts.dead_letters import burial, bury
from pillarbox.testing.contracts.harness import StoreHarness, make_message
from pillarbox.transaction import Program

DEAD = DeadLetterFilter()


async def bury_many(harness: StoreHarness, count: int) -> None:
    """Bury messages ``m0``, ``m1`` and so on, each of a key of its own."""
    messages = [make_message(f"m{number}", f"k{number}") for number in range(count)]
    await bury(harness, *map(burial, messages))


async def create(
    harness: StoreHarness, run_id: str, where: DeadLetterFilter = DEAD, terms: ReplayTerms | None = None
) -> int:
    """Make a run of all dead letters, or of those that match."""
    creating = harness.operators.runs.create(run_id, where, terms or ReplayTerms(), by="ann")
    return await harness.source.run(creating)


async def get(harness: StoreHarness, run_id: str) -> ReplayRun:
    """Return a run that is there."""
    run = await harness.source.run(harness.operators.runs.get(run_id))
    assert run is not None
    return run


async def enqueue(harness: StoreHarness, run_id: str, *, at_most: int = 100) -> int:
    """Enqueue one batch; return how many letters have had their turn."""
    return await harness.source.run(make_due(harness.operators.runs, harness.batches, run_id, at_most=at_most))


def make_due(runs: ReplayRunStore, batches: ReplayBatchStore, run_id: str, *, at_most: int) -> Program[int]:
    """Take one batch through its three steps; return how many letters have had their turn."""
    run = yield from runs.get(run_id)
    if run is None or (taken := (yield from batches.take(run_id, after=run.reached, at_most=at_most))) is None:
        return 0
    yield from batches.hold(taken)
    yield from batches.enqueue(taken)
    return taken.count


async def enqueue_all(harness: StoreHarness, run_id: str, *, at_most: int) -> None:
    """Enqueue batch after batch, again where the database asks for it."""
    done = 1
    while done:
        try:
            done = await enqueue(harness, run_id, at_most=at_most)
        except (ConflictError, RunElsewhere):
            continue


async def end(harness: StoreHarness, run_id: str, state: RunState) -> bool:
    """Close a run."""
    return await harness.source.run(harness.operators.runs.end(run_id, state=state, because="enough"))
