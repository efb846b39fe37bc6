"""How a batch is divided when its transaction fails, and who is blamed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import pytest

from pillarbox.consumer.effects import Raised, Returned
from pillarbox.consumer.item import CONFLICTS_IN_A_ROW, Item
from pillarbox.consumer.process import Process
from pillarbox.consumer.report import RunReport
from pillarbox.consumer.run import Run, RunProgram
from pillarbox.consumer.surroundings import Surroundings
from pillarbox.errors import ConflictError, LeaseLostError, PermanentError, TransientError
from pillarbox.idempotency import Suspect, Trial
from pillarbox.observe import Event, HeldKeyFull, MessageDead, Observer, RunRolledBack
from pillarbox.ordering import RunSize
from pillarbox.retry import GiveUp, Retry, RetryLater
from pillarbox.testing import VirtualClock
from pillarbox.transaction import TransactionSource
from tests.unit.consumer.scripted import Script, Stage, fails, ids, item, returns, stage

if TYPE_CHECKING:
    from pillarbox.transaction import Program

T = TypeVar("T")
LATER = Retry(attempts=2, immediate=0, first=timedelta(seconds=2))


class Steps(TransactionSource):
    """Runs programs that need no database."""

    async def run(self, program: Program[T]) -> T:
        try:
            next(program)
        except StopIteration as end:
            result: T = end.value
            return result
        raise AssertionError("a scripted store executes nothing")

    async def run_single(self, program: Program[T]) -> T:
        return await self.run(program)

    def translate(self, error: Exception) -> Exception:
        return error

    def begin(self, *, shared: bool = False) -> object:  # type: ignore[override]
        raise NotImplementedError

    def begin_briefly(self) -> object:  # type: ignore[override]
        raise NotImplementedError

    def begin_sync(self, *, shared: bool = False) -> object:  # type: ignore[override]
        raise NotImplementedError


class Batches(Observer):
    """A shell that notes which messages each transaction was about, and can fail at the commit.

    What fails behind a savepoint has written nothing, unless the savepoint is gone with the transaction.
    """

    def __init__(
        self,
        scene: Stage,
        script: Script,
        *,
        commit: Callable[[list[str]], None] = lambda _: None,
        savepoints_hold: bool = True,
    ) -> None:
        self._scene = scene
        self._script = script
        self._commit = commit
        self._savepoints_hold = savepoints_hold
        self.invoked: list[list[str]] = []
        self.committed: list[RunReport] = []
        self.rolled_back: list[RunRolledBack] = []

    async def transact(self, program: RunProgram, *, trusted: int | None = None) -> RunReport:
        before, start = set(self._scene.inbox.ids), len(self._scene.invoked)

        def guarded(identity: str, attempt: int) -> Returned | Raised:
            answer = self._script(identity, attempt)
            is_trusted = trusted is None or len(self._scene.invoked) - start <= trusted
            if isinstance(answer, Returned) or is_trusted or not self._savepoints_hold:
                return answer
            return Raised(answer.error, touched=False)

        try:
            report = self._scene.step(program, guarded)
            self._commit([identity for identity, _ in self._scene.invoked[start:]])
        except Exception:
            self._scene.inbox.ids = before
            raise
        finally:
            self.invoked.append([identity for identity, _ in self._scene.invoked[start:]])
        self.committed.append(report)
        return report

    def notice(self, event: Event, /) -> None:
        if isinstance(event, RunRolledBack):
            self.rolled_back.append(event)

    @property
    def handled(self) -> list[str]:
        return [identity for report in self.committed for identity in ids(report.handled)]


async def handle(scene: Stage, batches: Batches, items: Sequence[Item], size: RunSize | None = None) -> int:
    """Handle ``items`` as a lane does."""
    around = Surroundings(
        source=Steps(),
        clock=VirtualClock(),
        observer=batches,
        worker="w1",
        new_token=lambda: "t1",
        on_published=lambda: None,
    )
    process = Process(Run(scene.rules), shell=batches, around=around)
    return await process.handle(items, intake=scene.intake, size=size or RunSize(largest=8))


def items_of(count: int, *, keys: str = "abcdefgh") -> list[Item]:
    """Messages ``m0``, ``m1`` and so on, of ``keys`` in turn."""
    return [item(f"m{number}", key=keys[number % len(keys)]) for number in range(count)]


async def test_all_goes_well_in_one_transaction() -> None:
    scene = stage()
    batches = Batches(scene, returns())

    await handle(scene, batches, items_of(5))

    assert batches.invoked == [["m0", "m1", "m2", "m3", "m4"]]


async def test_a_failure_without_a_statement_rolls_nothing_back() -> None:
    scene = stage(retry=LATER)
    batches = Batches(scene, fails("m1"))

    await handle(scene, batches, items_of(3))

    assert (len(batches.invoked), batches.handled, scene.intake.retried) == (1, ["m0", "m2"], ["m1"])


async def test_the_run_is_done_again_without_the_one_that_spoiled_it() -> None:
    scene = stage(retry=LATER)
    items = items_of(3)
    batches = Batches(scene, fails("m1", touched=True))

    await handle(scene, batches, items)

    assert batches.invoked == [["m0", "m1"], ["m0", "m2"]]
    assert (batches.handled, scene.intake.retried) == (["m0", "m2"], ["m1"])
    assert [one.attempts for one in items] == [0, 1, 0]


async def test_after_the_first_failure_the_others_of_its_run_are_taken_back_alone() -> None:
    scene = stage(retry=LATER)
    items = items_of(6)
    batches = Batches(scene, fails("m1", "m3", "m4", touched=True))

    await handle(scene, batches, items)

    assert batches.invoked == [["m0", "m1"], ["m0", "m2", "m3", "m4", "m5"]]
    assert (batches.handled, scene.intake.retried) == (["m0", "m2", "m5"], ["m1", "m3", "m4"])
    assert [one.attempts for one in items] == [0, 1, 0, 1, 1, 0]


async def test_what_went_well_before_the_first_failure_is_not_guarded_when_it_is_done_again() -> None:
    scene = stage(retry=LATER)
    tries: Counter[str] = Counter()

    def script(identity: str, attempt: int) -> Returned | Raised:
        tries[identity] += 1
        fails_now = identity == "m2" or (identity == "m0" and tries["m0"] == 2)
        return Raised(ValueError(identity), touched=True) if fails_now else Returned(None)

    batches = Batches(scene, script)

    await handle(scene, batches, items_of(4))

    assert batches.invoked == [["m0", "m1", "m2"], ["m0"], ["m1", "m3"]]
    assert scene.intake.retried == ["m0", "m2"]


async def test_a_message_that_must_be_tried_at_once_is_tried_where_it_stands() -> None:
    scene = stage(retry=Retry(attempts=3, immediate=2))
    items = [item("m0", key="a"), item("m1", key="b"), item("m2", key="c"), item("m3", key="b"), item("m4", key="b")]
    batches = Batches(scene, fails("m1", "m3", touched=True, times=1))

    await handle(scene, batches, items)

    assert batches.invoked == [["m0", "m1"], ["m0", "m1", "m2", "m3", "m3", "m4"]]
    assert [one.attempts for one in items] == [0, 1, 0, 1, 0]


async def test_where_no_savepoint_holds_it_is_tried_alone() -> None:
    scene = stage(retry=Retry(attempts=3, immediate=2))
    items = [item("m0", key="a"), item("m1", key="b"), item("m2", key="c"), item("m3", key="b"), item("m4", key="b")]
    batches = Batches(scene, fails("m3", touched=True, times=2), savepoints_hold=False)

    await handle(scene, batches, items)

    first = ["m0", "m1", "m2", "m3"]
    assert batches.invoked == [first, first, ["m0", "m1", "m2"], ["m3"], ["m4"]]
    assert [one.attempts for one in items] == [0, 0, 0, 2, 0]


async def test_after_two_reruns_messages_are_handled_singly_where_no_savepoint_holds() -> None:
    scene = stage(retry=LATER)
    batches = Batches(scene, fails("m0", "m1", "m2", touched=True), savepoints_hold=False)

    await handle(scene, batches, items_of(5))

    assert batches.invoked[3:] == [[], [], [], ["m3"], ["m4"]]
    assert (batches.handled, scene.intake.retried) == (["m3", "m4"], ["m0", "m1", "m2"])


async def test_attempts_are_exact_however_often_a_run_is_rolled_back() -> None:
    scene = stage(retry=Retry(attempts=3, immediate=1, first=timedelta(seconds=2)))
    items = items_of(6)
    batches = Batches(scene, fails("m1", "m4", touched=True))

    await handle(scene, batches, items)

    assert [one.attempts for one in items] == [0, 2, 0, 0, 2, 0]
    assert [isinstance(one.verdict, RetryLater) for one in items] == [False, True, False, False, True, False]
    assert sorted(batches.handled) == ["m0", "m2", "m3", "m5"]


async def test_a_commit_that_fails_is_blamed_on_the_one_that_fails_alone() -> None:
    """A deferred constraint, say: only alone can it be told whose it is."""
    scene = stage(retry=LATER)
    items = items_of(4)

    def commit(invoked: list[str]) -> None:
        if "m2" in invoked:
            raise ValueError("constraint violated at commit")

    batches = Batches(scene, returns(), commit=commit)

    await handle(scene, batches, items)

    assert sorted(batches.handled) == ["m0", "m1", "m3"]
    assert [one.attempts for one in items] == [0, 0, 1, 0]
    assert scene.intake.retried == ["m2"]


async def test_a_conflict_halves_the_batch_and_is_nobodys_attempt() -> None:
    scene = stage()
    items = items_of(4)
    conflicts = iter([True, False, True])

    def commit(_: list[str]) -> None:
        if next(conflicts, False):
            raise ConflictError("serialization failure")

    batches = Batches(scene, returns(), commit=commit)

    await handle(scene, batches, items)

    assert batches.invoked == [["m0", "m1", "m2", "m3"], ["m0", "m1"], ["m2", "m3"], ["m2"], ["m3"]]
    assert [one.attempts for one in items] == [0, 0, 0, 0]


async def test_conflicts_are_counted_anew_after_another_failure() -> None:
    scene = stage(retry=Retry(attempts=2, immediate=1))
    message = item("m1")
    many = CONFLICTS_IN_A_ROW - 10
    errors = iter([*[ConflictError("deadlock")] * many, ValueError("no"), *[ConflictError("deadlock")] * many])

    def script(identity: str, attempt: int) -> Returned | Raised:
        error = next(errors, None)
        return returns()(identity, attempt) if error is None else Raised(error, touched=True)

    batches = Batches(scene, script)

    await handle(scene, batches, [message])

    assert (batches.handled, message.attempts) == (["m1"], 1)


async def test_a_commit_that_conflicts_too_often_in_a_row_is_an_attempt_of_its_message_and_of_no_other() -> None:
    scene = stage(retry=Retry(attempts=3, immediate=1, first=timedelta(seconds=2)))
    items = items_of(3)

    def commit(invoked: list[str]) -> None:
        if "m1" in invoked:
            raise ConflictError("serialization failure")

    batches = Batches(scene, returns(), commit=commit)

    await handle(scene, batches, items)

    assert sorted(batches.handled) == ["m0", "m2"]
    assert [one.attempts for one in items] == [0, 2, 0]
    assert isinstance(items[1].verdict, RetryLater)


async def test_a_database_that_takes_not_even_what_is_put_aside_is_unavailable_in_the_end() -> None:
    scene = stage()
    message = item("m1")

    def commit(_: list[str]) -> None:
        raise ConflictError("serialization failure")

    batches = Batches(scene, fails("m1", error=PermanentError("no"), touched=False), commit=commit)

    with pytest.raises(TransientError, match="shop/reserve"):
        await handle(scene, batches, [message])


@pytest.mark.parametrize("touched", [True, False])
async def test_a_handler_that_conflicts_too_often_in_a_row_has_made_an_attempt(touched: bool) -> None:
    scene = stage(retry=Retry(attempts=3, immediate=1, first=timedelta(seconds=2)))
    items = items_of(3)
    batches = Batches(scene, fails("m1", error=ConflictError("deadlock"), touched=touched))

    await handle(scene, batches, items)

    assert sorted(batches.handled) == ["m0", "m2"]
    assert [one.attempts for one in items] == [0, 2, 0]
    assert isinstance(items[1].verdict, RetryLater)
    assert len([one for one, _ in scene.invoked if one == "m1"]) == 2 * (CONFLICTS_IN_A_ROW + 1)


@pytest.mark.parametrize("error", [TransientError("gone"), LeaseLostError(lease="l", token=1)])
async def test_what_is_not_the_messages_fault_ends_the_batch(error: Exception) -> None:
    scene = stage()
    message = item("m1")

    def commit(_: list[str]) -> None:
        raise error

    batches = Batches(scene, returns(), commit=commit)

    with pytest.raises(type(error)):
        await handle(scene, batches, [message])

    assert message.attempts == 0


async def test_a_message_that_cannot_even_be_put_aside_does_not_spin() -> None:
    scene = stage(retry=Retry(attempts=1))

    def commit(_: list[str]) -> None:
        raise ValueError("the dead letter table is full")

    batches = Batches(scene, returns(), commit=commit)

    with pytest.raises(ValueError, match="full"):
        await handle(scene, batches, [item("m1")])

    assert batches.invoked == [["m1"], []]


async def test_what_is_behind_a_waiting_message_waits_in_later_runs_of_the_batch_too() -> None:
    scene = stage(retry=LATER)
    items = [item("m0", key="a"), item("m1", key="a"), item("m2", key="b"), item("m3", key="b"), item("m4", key="b")]
    batches = Batches(scene, fails("m0", "m2", "m3", touched=True))

    await handle(scene, batches, items)

    assert scene.intake.retried == ["m0", "m2"]
    assert sorted(scene.intake.behind) == ["m1", "m3", "m4"]
    assert batches.handled == []


async def test_what_a_dead_process_left_behind_is_tried_among_few_and_in_the_order_of_its_keys() -> None:
    scene = stage()
    scene.attempts.left_behind = {f"m{n}": Suspect(message_id=f"m{n}", crashes=0) for n in range(2, 14)}
    items = [item(f"m{n}", key=f"k{n % 3}") for n in range(15)]
    batches = Batches(scene, returns())

    await handle(scene, batches, items)

    few = [f"m{n}" for n in range(2, 15)]
    assert batches.invoked == [["m0", "m1"], few[:10], few[10:]]


async def test_suspects_of_a_small_company_run_alone_and_what_is_behind_them_after_them() -> None:
    scene = stage()
    scene.attempts.left_behind = {"m1": Suspect(message_id="m1", crashes=0, trial=Trial.FEW)}
    items = [item("m0", key="b"), item("m1", key="a"), item("m2", key="a"), item("m3", key="b")]
    batches = Batches(scene, returns())

    await handle(scene, batches, items)

    assert batches.invoked == [["m0", "m3"], ["m1"], ["m2"]]


async def test_only_crashes_while_alone_count_and_too_many_are_the_end() -> None:
    scene = stage(retry=Retry(attempts=3))
    scene.attempts.left_behind = {one: Suspect(message_id=one, crashes=0, trial=Trial.FEW) for one in ("m1", "m2")}
    scene.attempts.crashes_alone = {"m1": 2, "m2": 3}
    killer = item("m2", key="b")
    batches = Batches(scene, returns())

    await handle(scene, batches, [item("m1", key="a"), killer])

    assert (batches.handled, scene.intake.dead) == (["m1"], ["m2"])
    assert (killer.verdict, killer.attempts) == (GiveUp("crashed"), 3)


async def test_nothing_of_a_key_is_tried_after_what_there_was_no_room_for() -> None:
    """Though there is room by then: it comes again in its place."""
    scene = stage()
    scene.attempts.left_behind = {one: Suspect(message_id=one, crashes=0) for one in ("m1", "n1")}
    scene.intake.full_keys = {"k:full": 1}
    batches = Batches(scene, returns())
    items = [item("m0", key="full"), item("m1", key="full"), item("n0", key="other"), item("n1", key="other")]

    await handle(scene, batches, items)

    assert batches.handled == ["n0", "n1"]
    assert ids([one for one in items if one.returned]) == ["m0", "m1"]
    assert (scene.intake.accepted, scene.attempts.under_way) == (["n0", "n1"], set())


class FullKeys(Observer):
    """Which full keys were told of, by the messages that were given back."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, event: Event, /) -> None:
        if isinstance(event, HeldKeyFull):
            self.told.append(event.message_id)


class Deaths(Observer):
    """Which dead messages are told to hold their key."""

    def __init__(self) -> None:
        self.holding: dict[str, bool] = {}

    def notice(self, event: Event, /) -> None:
        if isinstance(event, MessageDead):
            self.holding[event.message_id] = event.holds_key


async def test_a_dead_message_is_told_to_hold_its_key_only_if_something_may_wait_behind_it() -> None:
    """One that is late lets the others pass, and one without a key has nothing behind it."""
    scene, told = stage(retry=Retry(attempts=1)), Deaths()
    around = Surroundings(
        source=Steps(),
        clock=VirtualClock(),
        observer=told,
        worker="w1",
        new_token=lambda: "t1",
        on_published=lambda: None,
    )
    process = Process(Run(scene.rules), shell=Batches(scene, fails("m1", "m2", "m3")), around=around)
    late = item("m2", key="late")
    late.blocks = False

    await process.handle([item("m1"), late, item("m3", key=None)], intake=scene.intake, size=RunSize(largest=8))

    assert told.holding == {"m1": True, "m2": False, "m3": False}


async def test_a_full_key_is_told_of_once_a_minute() -> None:
    """By each process; and what was rolled back, or had room after all, is not told of."""
    scene, clock, told = stage(), VirtualClock(), FullKeys()
    scene.intake.full_keys = {"k:k": 1000, "k:late": 1000}
    around = Surroundings(
        source=Steps(),
        clock=clock,
        observer=told,
        worker="w1",
        new_token=lambda: "t1",
        on_published=lambda: None,
    )
    process = Process(Run(scene.rules), shell=Batches(scene, returns()), around=around)

    async def give_back(*items: Item) -> list[str]:
        told.told.clear()
        await process.handle(items, intake=scene.intake, size=RunSize(largest=8))
        return list(told.told)

    assert await give_back(item("m1"), item("m2"), item("n1", key="free")) == ["m1"]
    clock.advance(timedelta(seconds=30))
    assert await give_back(item("m1"), item("l1", key="late")) == ["l1"]
    clock.advance(timedelta(seconds=30))
    assert await give_back(item("m1"), item("l1", key="late")) == ["m1"]
    scene.intake.full_keys = {}
    clock.advance(timedelta(minutes=2))
    assert await give_back(item("m1"), item("l1", key="late")) == []


async def test_trouble_shrinks_runs_and_success_lets_them_grow() -> None:
    scene = stage(retry=LATER)
    size = RunSize(largest=8)

    await handle(scene, Batches(scene, fails("m0", touched=True)), items_of(2), size)
    after_trouble = size.size
    await handle(scene, Batches(scene, returns()), [item("m9")], size)

    assert (after_trouble, size.size) == (8, 8)
    size.shrink()
    size.shrink()
    await handle(scene, Batches(scene, returns()), [item("m10")], size)
    assert size.size == 4


async def test_a_roll_back_is_told() -> None:
    scene = stage(retry=LATER)
    batches = Batches(scene, fails("m0", touched=True))

    await handle(scene, batches, items_of(2))

    assert batches.rolled_back == [RunRolledBack(consumer="shop/reserve", size=2, cause="handler")]
