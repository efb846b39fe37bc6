"""What one process makes of the calls to a dependency, and what its runs do while that is down."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import pytest
from sqlalchemy import make_url

from pillarbox import CircuitBreaker, Retry
from pillarbox.consumer import dependency
from pillarbox.consumer.dependency import Dependency, Probe, Sharing
from pillarbox.consumer.effects import Returned
from pillarbox.errors import ConfigurationError, DependencyDownError, StoreUnavailableError
from pillarbox.observe import BreakerClosed, BreakerOpened, Event, Observer
from pillarbox.retry import Classification, RetryLater
from pillarbox.retry.budget import RetryBudget
from pillarbox.stores.sqlite import sqlite_store
from pillarbox.testing import VirtualClock
from tests.unit.consumer.scripted import Stage, fails, ids, item, returns, stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillarbox.relational import RelationalStore

T = TypeVar("T")
DOWN = ConnectionError("nobody there")
BREAKER = CircuitBreaker(failures=3, open_for=timedelta(seconds=10), longest=timedelta(seconds=40))


class Noting(Observer):
    """What is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notice(self, event: Event, /) -> None:
        self.events.append(event)


class Scene:
    """A store, and processes that share what they know through it."""

    def __init__(self, store: RelationalStore, clock: VirtualClock) -> None:
        self.store = store
        self.clock = clock
        self.told = Noting()
        self.tokens = iter(f"t{number}" for number in range(1000))

    def process(self) -> Dependency:
        """What one more process knows."""
        sharing = Sharing(
            circuits=self.store.circuits,
            source=self.store,
            clock=self.clock,
            observer=self.told,
            new_token=self.tokens.__next__,
            dice=lambda: 0.0,
            lease=timedelta(seconds=30),
        )
        return Dependency("shop/gateway", BREAKER, sharing)

    async def opened(self) -> Dependency:
        """A process that has opened the breaker."""
        process = self.process()
        for _ in range(3):
            fail(process)
        await process.look()
        return process


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A store in memory, by the clock of the test."""
    clock = VirtualClock()
    store = sqlite_store(make_url("sqlite://"), now=clock.now)
    await store.migrate()
    yield Scene(store, clock)
    await store.close()


def fail(
    process: Dependency, error: Exception = DOWN, *, is_last: bool = False, probe: Probe | None = None
) -> timedelta | None:
    """A call fails."""
    return process.failed(Classification().classify(error), error, is_last=is_last, probe=probe)


async def test_failures_in_a_row_open_it_and_the_last_of_them_is_no_attempt(scene: Scene) -> None:
    process = scene.process()

    assert fail(process) is None
    process.succeeded(None)
    assert [fail(process) for _ in range(3)] == [None, None, timedelta(seconds=10)]
    assert process.is_shut
    assert fail(process) == timedelta(seconds=10)


async def test_failures_that_are_far_apart_do_not_open_it(scene: Scene) -> None:
    process = scene.process()

    for _ in range(10):
        assert fail(process) is None
        scene.clock.advance(timedelta(seconds=20))


async def test_only_what_waiting_may_help_against_counts(scene: Scene) -> None:
    process = scene.process()

    for _ in range(5):
        assert fail(process, ValueError("a mistake")) is None
        assert fail(process, StoreUnavailableError(store="s", reason="r")) is None
    assert not process.is_shut


async def test_what_says_that_it_is_down_opens_it_at_once(scene: Scene) -> None:
    wait = fail(scene.process(), DependencyDownError("at night", retry_after=timedelta(hours=8)))

    assert wait == timedelta(hours=8)


async def test_a_message_is_not_given_up_while_no_call_succeeds(scene: Scene) -> None:
    process = scene.process()
    assert fail(process, is_last=True) is not None

    works = scene.process()
    works.succeeded(None)
    assert fail(works, is_last=True) is None, "it works for others, so it is the message"
    assert fail(works, is_last=True) is not None, "two in a row: it does not"


async def test_others_learn_of_it_and_one_of_them_probes(scene: Scene) -> None:
    first, second = await scene.opened(), scene.process()
    await second.look()
    assert second.is_shut
    assert not second.may_be_probed
    assert await second.probe() is None

    scene.clock.advance(timedelta(seconds=10))
    probe = await second.probe()
    assert probe is not None
    await first.look()
    assert await first.probe() is None
    second.succeeded(probe)
    await second.settle(probe)
    scene.clock.advance(timedelta(seconds=1))
    await first.look()
    assert not first.is_shut
    assert scene.told.events == [
        BreakerOpened(
            dependency="shop/gateway", error_type="ConnectionError", openings=1, retry_after=timedelta(seconds=10)
        ),
        BreakerClosed(dependency="shop/gateway", away_for=timedelta(seconds=10)),
    ]


async def test_each_probe_that_fails_makes_the_pause_longer_up_to_the_longest(scene: Scene) -> None:
    process = await scene.opened()

    pauses: list[timedelta | None] = []
    for _ in range(4):
        scene.clock.advance(timedelta(minutes=1))
        probe = await process.probe()
        pauses.append(fail(process, probe=probe))
        await process.settle(probe)

    assert pauses == [timedelta(seconds=number) for number in (20, 40, 40, 40)]
    assert process.is_shut


async def test_a_probe_that_made_no_call_leaves_it_to_the_next(scene: Scene) -> None:
    process = await scene.opened()
    scene.clock.advance(timedelta(seconds=10))

    await process.settle(await process.probe())

    assert process.may_be_probed
    assert await process.probe() is not None


async def test_a_probe_that_answers_too_late_changes_nothing(scene: Scene) -> None:
    paused, other = await scene.opened(), scene.process()
    scene.clock.advance(timedelta(seconds=10))
    late = await paused.probe()
    scene.clock.advance(timedelta(seconds=31))
    await other.look()
    probe = await other.probe()
    assert probe is not None

    paused.succeeded(late)
    await paused.settle(late)

    scene.clock.advance(timedelta(seconds=1))
    await other.look()
    assert other.is_shut


async def test_what_was_read_before_it_opened_does_not_close_it_again(scene: Scene) -> None:
    """The look that began first may end last."""
    process = scene.process()
    read = process._source.run_single
    stale: list[object] = []

    async def slowly(program: object) -> object:
        answer = await read(program)  # type: ignore[arg-type]
        if not stale:
            stale.append(answer)
            scene.clock.advance(timedelta(milliseconds=1))
            for _ in range(3):
                fail(process)
            await process.look()
        return answer

    process._source.run_single = slowly  # type: ignore[method-assign,assignment]
    await process.look()

    assert stale
    assert process.is_shut


def needing(process: Dependency, **options: object) -> Stage:
    """A run whose handler needs the dependency."""
    at = stage(retry=Retry(attempts=5, immediate=0), **options)  # type: ignore[arg-type]
    at.rules = replace(at.rules, needs=process)
    return at


async def test_a_run_leaves_what_comes_after_it_opened_and_takes_it_out_of_the_inbox(scene: Scene) -> None:
    at = needing(scene.process())
    items = [item(f"m{number}", key=f"k{number}") for number in range(6)]

    report = at.run(items, fails(*ids(items), error=DOWN))

    assert ids(report.retried) == ["m0", "m1", "m2"]
    assert [one.attempts for one in report.retried] == [1, 1, 0], "what opened it is no attempt"
    assert ids(report.left) == ["m3", "m4", "m5"]
    assert at.intake.accepted == ["m0", "m1", "m2"]
    assert at.inbox.ids == set()
    assert [identity for identity, _ in at.invoked] == ["m0", "m1", "m2"]


async def test_while_it_is_open_a_run_calls_nobody_but_for_the_probe(scene: Scene) -> None:
    process = await scene.opened()
    at = needing(process)
    assert ids(at.run([item("m1")], returns()).left) == ["m1"]

    scene.clock.advance(timedelta(seconds=10))
    probing = item("m2")
    probing.probe = await process.probe()
    assert ids(at.run([probing], returns()).handled) == ["m2"]
    assert probing.probe is not None
    assert probing.probe.answer is True


async def test_what_is_behind_something_left_is_left_even_if_it_closes_meanwhile(scene: Scene) -> None:
    process = await scene.opened()
    at = needing(process)
    items = [item("m1"), item("m2")]
    items[1].probe = Probe(circuit=process._circuit())

    assert ids(at.run(items, returns()).left) == ["m1", "m2"]


@pytest.mark.parametrize("batch", [None, 2])
async def test_what_opened_it_is_left_with_what_is_before_it_in_its_key(scene: Scene, batch: int | None) -> None:
    """It would be at the head of a hold when what was left comes again."""
    at = needing(await scene.opened(), batch=batch)
    items = [item("m1"), item("m2"), item("m3"), item("n1", key="other")]
    for failed in (items[1], items[3]):
        failed.verdict = RetryLater(timedelta(seconds=10))

    report = at.run(items, returns())

    assert (ids(report.left), ids(report.retried), report.behind) == (["m1", "m2", "m3"], ["n1"], [])
    assert (at.intake.accepted, at.inbox.ids) == (["n1"], set())


async def test_a_batch_is_left_while_it_is_open(scene: Scene) -> None:
    at = needing(await scene.opened(), batch=2)
    items = [item(f"m{number}", key=f"k{number}") for number in range(3)]

    assert ids(at.run(items, returns()).left) == ["m0", "m1", "m2"]


@pytest.mark.parametrize("behind", ["cannot be decoded", "has no handler", "waits"])
async def test_what_is_behind_a_batch_that_is_left_is_neither_dead_nor_discarded_nor_held_before_it(
    scene: Scene, behind: str
) -> None:
    """Its breaker opens between two lists of one run."""
    process = scene.process()
    at = needing(process, batch=2, undecodable=frozenset({"m2"} if behind == "cannot be decoded" else ()))
    second = item("m2", key="k", type="order.shipped") if behind == "has no handler" else item("m2", key="k")
    if behind == "waits":
        second.verdict = RetryLater(timedelta(seconds=10))

    def script(identity: str, attempt: int) -> Returned:
        for _ in range(3):
            fail(process)
        return Returned(None)

    report = at.run([item("n1", key="a"), item("n2", key="b"), item("m1", key="k"), second], script)

    assert (ids(report.handled), ids(report.left)) == (["n1", "n2"], ["m1", "m2"])
    assert (report.dead, report.discarded, report.retried, report.behind) == ([], [], [], [])
    assert (at.intake.accepted, at.inbox.ids) == (["n1", "n2"], {"n1", "n2"})


@pytest.mark.parametrize(
    "nonsense",
    [
        {"failures": 0},
        {"factor": 0.5},
        {"open_for": timedelta(0)},
        {"within": timedelta(0)},
        {"longest": timedelta(seconds=1)},
    ],
)
def test_a_breaker_that_means_nothing_is_refused(nonsense: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="CircuitBreaker"):
        CircuitBreaker(**nonsense)  # type: ignore[arg-type]


class Halting(RetryBudget):
    """A budget in which a call that succeeds halts in the midst of saving."""

    halted, may_go = threading.Event(), threading.Event()

    def succeeded(self) -> None:
        before = self.saved
        self.halted.set()
        assert self.may_go.wait(10)
        self.saved = before


async def test_what_one_thread_spends_is_not_saved_again_by_another(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependency, "RetryBudget", Halting)
    process = scene.process()
    saving = threading.Thread(target=process.succeeded, args=(None,))
    spending = threading.Thread(target=process.may_retry)

    saving.start()
    assert Halting.halted.wait(10)
    spending.start()
    spending.join(0.2)  # nothing to wait for: it must not get through
    Halting.may_go.set()
    saving.join()
    spending.join()

    assert [process.may_retry() for _ in range(10)] == [True] * 9 + [False]


@pytest.mark.parametrize("batch", [None, 2])
async def test_a_second_copy_of_what_is_left_is_left_too(scene: Scene, batch: int | None) -> None:
    """Both are one delivery: the lease was lost and had again, and its channel gave out anew what was not settled."""
    at = needing(await scene.opened(), batch=batch)

    report = at.run([item("m1"), item("m2"), item("m1"), item("m2")], returns())

    assert (ids(report.left), report.suppressed) == (["m1", "m2", "m1", "m2"], [])
    assert (at.intake.accepted, at.intake.done, at.inbox.ids) == ([], [], set())
