"""``pillarbox dead-letters replay-all`` and ``runs``: replays of many letters."""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from datetime import timedelta

import click
from rich.console import Console
from rich.progress import Progress

from pillarbox.app import SystemClock
from pillarbox.app.controlling import replay_driver_of
from pillarbox.cli.letter_filters import letter_filter
from pillarbox.cli.operators import by_option
from pillarbox.cli.output import print_facts, print_json, print_line, print_table, wants_json
from pillarbox.cli.places import Place, at_a_place
from pillarbox.clock import Clock
from pillarbox.control import Control
from pillarbox.deadletter import DeadLetterFilter, ReplayRun, RunState
from pillarbox.deadletter.driver import look_again_at
from pillarbox.deadletter.runs import ItemState
from pillarbox.errors import ConflictError, TransientError
from pillarbox.telemetry import masked

OVER = (ItemState.RESOLVED, ItemState.FAILED, ItemState.PASSED)
REST = timedelta(seconds=1)
PATIENCE = timedelta(minutes=1)
"""How long a run is followed of which nothing but errors is seen; it goes on by itself, wherever a box runs."""


def _share(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    """Refuse what is in every range, since it compares with nothing."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is no share of failures; give a number from 0 to 1")
    return value


@click.command(name="replay-all")
@letter_filter
@click.option("--rate", type=click.IntRange(min=1), help="Letters a second; left out: as fast as the database goes.")
@click.option("--canary", type=click.IntRange(min=0), default=0, help="Replay so many first; go on if all is well.")
@click.option(
    "--stop-at",
    type=click.FloatRange(0, 1),
    callback=_share,
    help="Stop above this share of failures, from 0 to 1.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Also letters replayed too often, or older than what the inbox is sure to remember.",
)
@click.option("--dry-run", is_flag=True, help="Only count them.")
@click.option("--detach", is_flag=True, help="Do not wait; a running box works the run off.")
@by_option
@at_a_place
async def replay_all(
    place: Place,
    where: DeadLetterFilter,
    *,
    rate: int | None,
    canary: int,
    stop_at: float | None,
    force: bool,
    dry_run: bool,
    detach: bool,
    by: str,
) -> None:
    """Replay all dead letters that match now, each for the consumer that could not handle it.

    The set is frozen and stored. This command takes part until the run has ended; interrupted, any running box goes on,
    or this command does with pillarbox dead-letters runs RUN --follow.
    """
    async with place.open() as control:
        run = await control.dead_letters.replay_all(
            where, by=by, rate=rate, canary=canary, stop_at=stop_at, dry_run=dry_run, force=force
        )
        if not (dry_run or detach):
            run = await _followed(place, control, run)
    if dry_run:
        _tell_count(run)
    else:
        _tell(run)


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--open", "only_open", is_flag=True, help="Only runs that have not ended.")
@click.option("--cancel", metavar="REASON", help="End the run: what is pending stays dead.")
@click.option("--follow", is_flag=True, help="Take part until it has ended.")
@by_option
@at_a_place
async def runs(place: Place, run_id: str | None, *, only_open: bool, cancel: str | None, follow: bool, by: str) -> None:
    """List replay runs, or show one and how far it has come."""
    if run_id is None and (cancel is not None or follow):
        raise click.UsageError("name the run")
    async with place.open() as control:
        if run_id is None:
            _tell_all(await control.dead_letters.runs(RunState.OPEN if only_open else None))
        elif cancel is not None:
            _tell(await control.dead_letters.cancel(run_id, by=by, reason=cancel))
        elif follow:
            _tell(await _followed(place, control, await control.dead_letters.run(run_id)))
        else:
            _tell(await control.dead_letters.run(run_id))


class _Patience:
    """Bears errors that pass by themselves, until there was nothing else for a while."""

    def __init__(self, clock: Clock, console: Console) -> None:
        self._clock = clock
        self._console = console
        self._since: float | None = None

    def went_well(self) -> None:
        self._since = None

    async def bear(self, error: ConflictError | TransientError) -> None:
        """Rest; of errors in a row the first one is told of, and the last one is raised."""
        now = self._clock.monotonic()
        if self._since is None:
            self._since = now
            if not wants_json():
                told = masked(f"{type(error).__name__}: {error}; trying again every second")
                self._console.print(told, style="dim", markup=False, highlight=False, soft_wrap=True)
        if now - self._since >= PATIENCE.total_seconds():
            raise error
        await self._clock.sleep(REST)


async def _followed(place: Place, control: Control, run: ReplayRun) -> ReplayRun:
    """Drive open runs, unless another process does, until ``run`` has ended."""
    clock = SystemClock()
    driver = replay_driver_of(place.store, clock=clock)
    if not wants_json():
        click.echo(f"replay run {run.id}", err=True)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task("replaying", total=run.total, completed=run.count(*OVER))
        patience = _Patience(clock, bars.console)
        try:
            look_at = clock.monotonic()
            while run.state is RunState.OPEN:
                try:
                    await driver.round()
                    if (began := clock.monotonic()) >= look_at:
                        run = await control.dead_letters.run(run.id)
                        look_at = look_again_at(began, clock.monotonic())
                except (ConflictError, TransientError) as error:
                    await patience.bear(error)
                    continue
                patience.went_well()
                bars.update(bar, total=run.total, completed=run.count(*OVER))
                if run.state is RunState.OPEN:
                    await clock.sleep(driver.rest)
        finally:
            with suppress(ConflictError, TransientError):  # its lease ends by itself
                await driver.leave()
    return run


def _tell_count(run: ReplayRun) -> None:
    replayed, passed = run.count(ItemState.PENDING), run.count(ItemState.PASSED)
    if wants_json():
        print_json({"would_replay": replayed, "would_pass_by": passed})
    else:
        left_out = f"; {passed} failed too long ago or were replayed too often, --force insists" if passed else ""
        print_line(f"{replayed} letters would be replayed{left_out}")


def _tell(run: ReplayRun) -> None:
    if wants_json():
        print_json(_facts(run))
    else:
        print_facts(_facts(run))


def _tell_all(found: tuple[ReplayRun, ...]) -> None:
    if wants_json():
        print_json([_facts(run) for run in found])
    elif not found:
        print_line("there are no replay runs")
    else:
        states = [state.value for state in ItemState]
        print_table(
            ["run", "state", "by", "created", *states, "ended because"],
            (
                [run.id, run.state, run.by, run.created_at, *map(run.count, ItemState), run.ended_because]
                for run in found
            ),
        )


def _facts(run: ReplayRun) -> dict[str, object]:
    return {
        "run": run.id,
        "state": run.state.value,
        "by": run.by,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "ended_because": run.ended_because,
        "rate": run.terms.rate,
        "canary": run.terms.canary,
        "stop_at": run.terms.stop_at,
        "letters": run.total,
        **{state.value: run.count(state) for state in ItemState},
    }
