"""How often an orchestrator asks for work that it cannot have."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pillarbox.channel.wakeup import Wakeup
from pillarbox.clock import Clock
from pillarbox.errors import StoreUnavailableError
from pillarbox.observe import Observers
from pillarbox.saga.catalogue import Catalogue
from pillarbox.saga.orchestrator import SHORTEST_POLL, SagaOrchestrator, Workplace

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pillarbox.transaction import Program

TURNS = 20
OUTCOME = SimpleNamespace(call=SimpleNamespace(key=("shop/s", "o-1")))


class Waits(Clock):
    """A clock on which a wait is over at once; it notes how long it would have been."""

    def __init__(self) -> None:
        self.waits: list[timedelta] = []
        self._passed = timedelta(0)

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + self._passed

    def monotonic(self) -> float:
        return self._passed.total_seconds()

    async def sleep(self, duration: timedelta) -> None:
        self.waits.append(duration)
        self._passed += duration


class InOtherHands:
    """A store with a row that is due, and locked by another process all the time."""

    def due(self, *_: object, **__: object) -> Program[tuple[()]]:
        return ()
        yield

    def lock(self, *_: object) -> Program[tuple[()]]:
        return ()
        yield

    def save(self, *_: object, **__: object) -> Program[None]:
        return
        yield

    def next_due(self, *_: object) -> Program[timedelta]:
        return timedelta(0)
        yield


class Source:
    """A database for programs without statements; it is away, if ``is_away``."""

    def __init__(self, turns: list[object], *, is_away: bool) -> None:
        self._turns = turns
        self._is_away = is_away

    @asynccontextmanager
    async def begin(self, *, shared: bool = False) -> AsyncGenerator[Any]:
        self._turns.append(object())
        assert len(self._turns) <= 2 * TURNS, "it asks without a pause"
        if self._is_away:
            raise StoreUnavailableError(store="PostgreSQL", reason="nobody answers")
        yield SimpleNamespace(connection=None, run=self.run_single)

    async def run_single(self, program: Program[Any]) -> Any:
        try:
            next(program)
        except StopIteration as end:
            return end.value
        raise AssertionError("a statement")

    def translate(self, error: Exception) -> Exception:
        return error


def an_orchestrator(clock: Clock, turns: list[object], *, is_away: bool) -> SagaOrchestrator:
    rules: Any = SimpleNamespace(service="shop")
    around: Any = Workplace(
        store=InOtherHands(),  # type: ignore[arg-type]
        source=Source(turns, is_away=is_away),  # type: ignore[arg-type]
        clock=clock,
        observer=Observers(),
    )
    return SagaOrchestrator(Catalogue(()), rules, around, wakeup=Wakeup(), on_published=lambda: None)


async def run_for_turns(*, is_away: bool, outcome: object | None = None) -> list[timedelta]:
    """Let an orchestrator take some turns; return how long it waited between them."""
    clock, turns = Waits(), list[object]()
    orchestrator = an_orchestrator(clock, turns, is_away=is_away)
    if outcome is not None:
        orchestrator._outcomes.append(outcome)  # type: ignore[arg-type]

    async def sleep(duration: timedelta) -> None:
        if len(turns) >= TURNS:
            orchestrator._outcomes.clear()
            orchestrator.stop()
        await Waits.sleep(clock, duration)

    clock.sleep = sleep  # type: ignore[method-assign]
    await orchestrator.run()
    assert len(turns) >= TURNS
    return clock.waits


async def test_what_is_due_and_in_other_hands_is_asked_for_with_pauses() -> None:
    waits = await run_for_turns(is_away=False)

    assert min(waits) >= SHORTEST_POLL


async def test_a_database_that_is_away_is_asked_with_pauses_though_a_call_has_come_back() -> None:
    waits = await run_for_turns(is_away=True, outcome=OUTCOME)

    assert min(waits) >= SHORTEST_POLL


async def test_what_comes_back_while_nothing_is_found_due_is_written_down_without_a_pause() -> None:
    clock, turns = Waits(), list[object]()
    orchestrator = an_orchestrator(clock, turns, is_away=False)

    def due(*_: object, **__: object) -> Program[tuple[()]]:
        if len(turns) == 1:
            orchestrator._outcomes.append(OUTCOME)  # type: ignore[arg-type]
        else:
            orchestrator.stop()
        return ()
        yield

    orchestrator._store.due = due  # type: ignore[method-assign]
    await orchestrator.run()

    assert orchestrator.in_hand == 0
    assert clock.waits[0] < SHORTEST_POLL
