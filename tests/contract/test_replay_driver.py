"""A run at full speed: two hands take turns, and letters become due in their order whatever fails in between."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from pillarbox.app import SystemClock
from pillarbox.app.controlling import replay_driver_of
from pillarbox.deadletter import DeadLetterFilter
from pillarbox.deadletter import driver as driving
from pillarbox.deadletter.batches import ReplayBatchStore, Taken
from pillarbox.deadletter.runs import ItemState, ReplayTerms
from pillarbox.errors import ConflictError, TransientError
from pillarbox.relational.replay_batches import RelationalReplayBatches
from pillarbox.testing.contracts.dead_letters import CONSUMER, burial, bury
from pillarbox.testing.contracts.harness import LONG, StoreHarness, make_message
from pillarbox.testing.contracts.replaying import create, get, make_due
from pillarbox.transaction import Execute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pillarbox.deadletter import ReplayRun
    from pillarbox.relational.store import RelationalStore
    from pillarbox.transaction import OpenTransaction, Program

LETTERS, KEYS, BATCH = 95, 7, 10


class Faltering(RelationalReplayBatches):
    """Batches of which one is not committed."""

    def __init__(self, inner: ReplayBatchStore, fails_at: int) -> None:
        self._inner = inner
        self._fails_at = fails_at
        self.enqueued = 0

    def take(self, run_id: str, *, after: int, at_most: int) -> Program[Taken | None]:
        return self._inner.take(run_id, after=after, at_most=at_most)

    def hold(self, taken: Taken) -> Program[None]:
        return self._inner.hold(taken)

    def enqueue(self, taken: Taken) -> Program[None]:
        yield from self._inner.enqueue(taken)
        self.enqueued += 1
        if self.enqueued == self._fails_at:
            raise TransientError("the connection was lost")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run have many batches."""
    monkeypatch.setattr(driving, "BATCH", BATCH)


async def test_every_letter_becomes_due_once_and_in_its_order(store: RelationalStore, harness: StoreHarness) -> None:
    await bury_all(harness)
    await create(harness, "r1", DeadLetterFilter(consumer=CONSUMER))

    run = await drive(store, harness)

    assert dict(run.items) == {ItemState.ENQUEUED: LETTERS}
    assert await due(harness) == expected()


@pytest.mark.parametrize("fails_at", [1, 2, 5])
async def test_a_batch_that_fails_takes_back_the_one_behind_it_and_both_come_again(
    store: RelationalStore, harness: StoreHarness, fails_at: int
) -> None:
    await bury_all(harness)
    await create(harness, "r1", DeadLetterFilter(consumer=CONSUMER))
    store.operators.batches = Faltering(store.operators.batches, fails_at)

    with pytest.raises(TransientError, match="lost"):
        await drive(store, harness)
    done = (await get(harness, "r1")).count(ItemState.ENQUEUED)
    run = await drive(store, harness)

    assert done == (fails_at - 1) * BATCH
    assert dict(run.items) == {ItemState.ENQUEUED: LETTERS}
    assert await due(harness) == expected()


class Dawdling(Faltering):
    """Batches of which the first one takes its keys when the second one has its letters."""

    def __init__(self, inner: ReplayBatchStore, *, overlap: bool) -> None:
        super().__init__(inner, fails_at=0)
        self.taken = 0
        self.held: list[int] = []
        self._overlap = overlap

    def take(self, run_id: str, *, after: int, at_most: int) -> Program[Taken | None]:
        taken = yield from super().take(run_id, after=after, at_most=at_most)
        self.taken += 1
        return taken

    def hold(self, taken: Taken) -> Program[None]:
        while self._overlap and self.taken < 2:
            yield Execute(text("SELECT 1"))
        self.held.append(taken.after)
        yield from super().hold(taken)


async def test_keys_are_taken_in_the_order_of_the_letters(store: RelationalStore, harness: StoreHarness) -> None:
    """Else a batch would have keys that the one before it waits for, and be refused."""
    await bury_all(harness)
    await create(harness, "r1", DeadLetterFilter(consumer=CONSUMER))
    dawdling = store.operators.batches = Dawdling(store.operators.batches, overlap=harness.concurrent_writers)

    run = await drive(store, harness)

    assert len(dawdling.held) == -(-LETTERS // BATCH)
    assert dawdling.held == sorted(dawdling.held)
    assert dict(run.items) == {ItemState.ENQUEUED: LETTERS}


class Refused(Faltering):
    """Batches of which the second one finds letters that somebody else keeps, before the first one is done."""

    def __init__(self, inner: ReplayBatchStore, *, overlap: bool) -> None:
        super().__init__(inner, fails_at=0)
        self.taken = 0
        self._overlap = overlap

    def take(self, run_id: str, *, after: int, at_most: int) -> Program[Taken | None]:
        self.taken += 1
        if self.taken == 2:
            raise ConflictError("waited for a letter for too long")
        return (yield from super().take(run_id, after=after, at_most=at_most))

    def enqueue(self, taken: Taken) -> Program[None]:
        while self._overlap and self.taken < 2:
            yield Execute(text("SELECT 1"))
        yield from super().enqueue(taken)


async def test_a_batch_that_cannot_be_taken_does_not_take_back_the_one_before(
    store: RelationalStore, harness: StoreHarness
) -> None:
    """Else a letter that somebody keeps would hold up those that are before it."""
    await bury_all(harness)
    await create(harness, "r1", DeadLetterFilter(consumer=CONSUMER))
    store.operators.batches = Refused(store.operators.batches, overlap=harness.concurrent_writers)

    with pytest.raises(ConflictError, match="too long"):
        await drive(store, harness)
    done = (await get(harness, "r1")).count(ItemState.ENQUEUED)
    run = await drive(store, harness)

    assert done == BATCH
    assert dict(run.items) == {ItemState.ENQUEUED: LETTERS}
    assert await due(harness) == expected()


@pytest.mark.parametrize("is_late", [True, False], ids=["frozen-before-it-takes", "no-answer-to-the-commit"])
async def test_a_driver_that_does_not_know_that_the_canary_is_under_way_replays_no_more(
    store: RelationalStore, harness: StoreHarness, monkeypatch: pytest.MonkeyPatch, *, is_late: bool
) -> None:
    await bury_all(harness)
    await create(harness, "r1", terms=ReplayTerms(canary=BATCH))
    begin, began = store.begin_briefly, 0

    @asynccontextmanager
    async def once_out_of_step() -> AsyncIterator[OpenTransaction]:
        nonlocal began
        began += 1
        is_first = began == 1
        if is_first and is_late:  # another process drives the run meanwhile
            await harness.source.run(make_due(store.operators.runs, store.operators.batches, "r1", at_most=BATCH))
        async with begin() as tx:
            yield tx
        if is_first:
            raise TransientError("no answer")

    monkeypatch.setattr(store, "begin_briefly", once_out_of_step)
    driver = replay_driver_of(store, clock=SystemClock())
    for _ in range(5):
        with suppress(TransientError):
            await driver.round()
    await driver.leave()

    assert began >= 1
    assert (await get(harness, "r1")).count(ItemState.ENQUEUED) == BATCH


class Stuck(Faltering):
    """Batches of which those of one run cannot go on."""

    def take(self, run_id: str, *, after: int, at_most: int) -> Program[Taken | None]:
        if run_id == "r1":
            raise ConflictError("waited for a letter for too long")
        return (yield from super().take(run_id, after=after, at_most=at_most))


async def test_a_run_that_cannot_go_on_does_not_hold_up_the_others(
    store: RelationalStore, harness: StoreHarness
) -> None:
    await bury_all(harness)
    for run_id in ("r1", "r2", "r3"):
        await create(harness, run_id)
    store.operators.batches = Stuck(store.operators.batches, fails_at=0)
    driver = replay_driver_of(store, clock=SystemClock())

    with pytest.raises(ConflictError, match="too long"):
        await driver.round()
    await driver.leave()

    assert dict((await get(harness, "r1")).items) == {ItemState.PENDING: LETTERS}
    assert dict((await get(harness, "r2")).items) == {ItemState.ENQUEUED: LETTERS}


class Asking(Faltering):
    """Batches that ask how long the server lets a transaction rest."""

    def __init__(self, inner: ReplayBatchStore) -> None:
        super().__init__(inner, fails_at=0)
        self.may_rest: set[str] = set()

    def enqueue(self, taken: Taken) -> Program[None]:
        self.may_rest.add((yield Execute(text("SELECT current_setting('idle_in_transaction_session_timeout')")))[0][0])
        yield from super().enqueue(taken)


async def test_a_driver_that_is_frozen_does_not_keep_the_locks_of_its_keys(
    store: RelationalStore, harness: StoreHarness
) -> None:
    if not store.name.startswith("PostgreSQL"):
        pytest.skip(f"{store.name} cannot end a transaction that rests")
    await bury_all(harness)
    await create(harness, "r1", DeadLetterFilter(consumer=CONSUMER))
    store.wait_within(timedelta(seconds=7))
    asking = store.operators.batches = Asking(store.operators.batches)

    await drive(store, harness)

    assert asking.may_rest == {"7s"}


async def bury_all(harness: StoreHarness) -> None:
    """Bury letters whose keys take turns."""
    await bury(harness, *(burial(make_message(f"m{number:02}", f"k{number % KEYS}")) for number in range(LETTERS)))


async def drive(store: RelationalStore, harness: StoreHarness) -> ReplayRun:
    """Drive until nothing is pending; another process than before."""
    driver = replay_driver_of(store, clock=SystemClock())
    try:
        while (run := await get(harness, "r1")).count(ItemState.PENDING):
            await driver.round()
    finally:
        await driver.leave()
    return run


async def due(harness: StoreHarness) -> dict[str, list[str]]:
    """Return the messages that are due, by key."""
    await harness.source.run(harness.held_queue.lease_due(CONSUMER, token="t", limit=LETTERS, ttl=LONG))
    heads = await harness.source.run(harness.held_queue.heads(CONSUMER, token="t", per_key=LETTERS))
    found: dict[str, list[str]] = {}
    for one in heads:
        found.setdefault(one.hold_key, []).append(one.message.id)
    return found


def expected() -> dict[str, Sequence[str]]:
    """Return every message, by key and in its order."""
    return {f"k:k{key}": [f"m{number:02}" for number in range(key, LETTERS, KEYS)] for key in range(KEYS)}
