"""The command that follows a replay run bears what passes: conflicts, and a database that is away for a while."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from pillarbox.app import SystemClock
from pillarbox.deadletter import DeadLetters
from pillarbox.deadletter.driver import ReplayDriver
from pillarbox.errors import ConflictError, PillarboxError, StoreUnavailableError
from tests.unit.cli.conftest import Shell, message

Rests = list[timedelta]
CONFLICT = ConflictError("another one won")
AWAY = StoreUnavailableError(store="shop", reason="it starts up")
WHY = ("--reason", "counted by hand", "--by", "ann")
MANY = 1000


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> Rests:
    """Time passes at once where the command rests; these are its rests."""
    rests: Rests = []

    class Hurried(SystemClock):
        def monotonic(self) -> float:
            return super().monotonic() + sum(rests, timedelta(0)).total_seconds()

        async def sleep(self, duration: timedelta) -> None:
            await super().sleep(timedelta(0))
            rests.append(duration)
            assert len(rests) < MANY, "it goes on for ever"

    monkeypatch.setattr("pillarbox.cli.replay_runs.SystemClock", Hurried)
    return rests


@pytest.fixture
def open_run(pillarbox: Shell, bury: Callable[..., None]) -> str:
    """A run of one letter, which was discarded meanwhile: a round or two end it."""
    bury(message("m1"))
    run = str(pillarbox.json("dead-letters", "replay-all", "--detach")["run"])
    pillarbox.text("dead-letters", "discard", "1", *WHY)
    return run


@pytest.mark.parametrize("error", [CONFLICT, AWAY], ids=["conflict", "away"])
def test_a_round_that_fails_is_tried_again_after_a_rest(
    pillarbox: Shell, open_run: str, rests: Rests, monkeypatch: pytest.MonkeyPatch, error: PillarboxError
) -> None:
    _fail(monkeypatch, ReplayDriver, "round", [error, error])

    done = pillarbox("dead-letters", "runs", open_run, "--follow")

    assert (done.exit_code, "finished" in done.stdout) == (0, True), done.output
    assert rests[:2] == [timedelta(seconds=1)] * 2
    assert done.stderr.count(f"{type(error).__name__}: {error}") == 1


@pytest.mark.parametrize("error", [CONFLICT, AWAY], ids=["conflict", "away"])
def test_a_look_that_fails_is_tried_again_and_programs_are_told_nothing(
    pillarbox: Shell, open_run: str, rests: Rests, monkeypatch: pytest.MonkeyPatch, error: PillarboxError
) -> None:
    _fail(monkeypatch, DeadLetters, "run", [None, error])

    done = pillarbox("dead-letters", "runs", open_run, "--follow", "--json")

    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert timedelta(seconds=1) in rests


def test_after_a_minute_of_nothing_else_the_last_error_ends_the_command(
    pillarbox: Shell, open_run: str, rests: Rests, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail(monkeypatch, ReplayDriver, "round", [CONFLICT, *[AWAY] * MANY])

    done = pillarbox("dead-letters", "runs", open_run, "--follow")

    assert (done.exit_code, str(AWAY) in done.stderr) == (2, True), done.output
    assert timedelta(seconds=59) <= sum(rests, timedelta(0)) <= timedelta(seconds=61)


def _fail(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, errors: Sequence[PillarboxError | None]) -> None:
    """Let the first calls of a method fail, each with its error; ``None`` stands for one that does not."""
    plan = iter(errors)
    real: Callable[..., Awaitable[Any]] = getattr(kind, name)

    async def failing(*arguments: Any) -> Any:
        if error := next(plan, None):
            raise error
        return await real(*arguments)

    monkeypatch.setattr(kind, name, failing)
